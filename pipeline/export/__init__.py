"""Export: a model file becomes ONNX graphs, each a file that says of itself what the model file says.

    pieces      torch.export of what reads each frame alone, and of one step in time
    assembly    the pieces as three graphs: backbone, clip (a scan over the step), streaming step
    parity      the graphs against PyTorch, at several batch sizes and lengths, before a file gets its name
    int8        the same graphs in 8 bits, calibrated on clips of the user, and what that costs in accuracy
    files       ``export_onnx``: all of it
    outcome     what comes of an export, how near it must be, and what its files say of themselves
    programs    the same pieces as programs of torch.export, for whoever deploys with torch

``inference.onnx_runtime`` runs the files.
"""
