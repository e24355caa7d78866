"""Files on disk: how they are written, locked, compared and kept.

content    the digest of a file, and a part of a larger file
failures   an error of the operating system in words
writing    a file that is written whole or not at all; lines that are whole at any moment; standard output
outputs    the outputs of a command: none of its inputs, no two the same, and this process's alone
lock       one process at a time
stopping   SIGINT, SIGTERM and SIGHUP as a request to finish the files
cache      a bounded folder of arrays that can be made anew
"""
