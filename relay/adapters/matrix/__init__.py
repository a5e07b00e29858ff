"""Matrix, through matrix-nio, whose types are used nowhere else.

`app.py` starts `adapter.MatrixAdapter`. Nothing else outside this folder imports from it.
"""
