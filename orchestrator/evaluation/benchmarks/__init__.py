"""Public benchmarks: readers of their files as users have them on disk, and what is made of them.

Each reader says where it learnt the layout. The real sets were not at hand: the readers were
tried on miniature sets in exactly those layouts.
"""
