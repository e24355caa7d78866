"""Long videos labelled in a browser: ``clipgru label FOLDER``.

stretches   labelled stretches of a video, and changes that name what they saw
manifest    the manifest, changed where labels changed and nowhere else
journal     every change on disk before anything else, for undo and after a crash
store       the labels of a folder, saved after every change
pictures    exact pictures by number, read a little ahead
site        which address answers with what
page/       the page
"""
