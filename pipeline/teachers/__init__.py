"""Vision-language teachers behind one small protocol; `load_teacher` finds one by its spec."""

from pipeline.teachers.teacher import Teacher, load_teacher

__all__ = ["Teacher", "load_teacher"]
