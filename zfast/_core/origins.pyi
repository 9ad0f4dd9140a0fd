# Everything here is nogil and for the engine: nothing has a Python face.
