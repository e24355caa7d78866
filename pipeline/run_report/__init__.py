"""One HTML page of a run, made of the files that the run left in its folder; and one that compares two runs.

journal      which commands worked on a run, when, for how long and on what machine; written as they end
records      what lies in a run's folder, read into dataclasses
clips        pictures of a video in a row, for thumbnails that play
results, learning, origin    the page's sections: values from records, put into the template of the same name
timelines    the sections about long videos; strips draws truth and answer over the score curves
comparison   the sections about two runs, and the paired test
page         the whole page; run.html, run.css and run.js are its frame, parts.html has what sections share
"""
