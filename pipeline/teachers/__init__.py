"""Vision-language teachers behind one small protocol; `teacher.load_teacher` finds one by its spec."""
