"""Prediction over many files by many processes: every file is recorded once, whatever is killed on the way.

job         the job of a worker, and its result for a file
processor   a file -> its rows; everything else here decides where and when this is called
worker      a process that does this, and dies alone
pool        workers side by side on this machine
on_ray      workers on a Ray cluster, the files spread over them by Ray Data
journal     the finished files, safely on disk
shards      a part of the files for each machine, and the tables of the parts joined
run         all of it, for ``clipgru predict --engine``

Only the process that the user started writes. It adds each file's rows to a journal beside the table as they come, and
makes the table of the journal when all are there. Killed and started again, it goes on from the journal.
"""
