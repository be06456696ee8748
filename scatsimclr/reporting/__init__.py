"""The report of a run: one HTML file without outside resources, and its figures as files.

`subject` is what a report is about, `findings` what is computed for it, `charts`, `pictures` and `wavelets` draw,
`page` puts the page of one run together, `comparison` that of several.
"""
