"""Matrix, through matrix-nio, whose types are used nowhere else.

`composition.py` makes an `adapter.MatrixAdapter`; what looks without one (`doctor`, `setup`) uses `survey`.
"""
