"""Ways in which a model file can lie, for ``tools/fuzz_model.py``: a function each, from the bytes of a file and a
seeded generator to other bytes.

    values             what a place in JSON can be made of
    model_files        metadata, header and body of a safetensors file
    onnx_files         metadata, fields and bytes of an ONNX file

A lie is an accident if the checksum is left as it was, and forged if it is made good again.
"""
