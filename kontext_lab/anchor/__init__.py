"""A benchmark of the order and the layout of references: does a pipeline heed which picture is which?"""
