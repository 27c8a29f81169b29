"""Vision-language teachers with one small protocol; `teacher.load_teacher` loads one by its spec."""
