"""Reports: HTML files without external resources, and their figures as files.

`subject` is what the report of a run is about, `findings` and `results` compute what it shows, `charts`, `pictures` and
`wavelets` draw it, and `templates` renders it. `page` composes the page of one run, `comparison` that of several, and
`labels` the page to check labels on.
"""

from scatsimclr.extras import require

require(__name__, "train", "PIL", "jinja2", "markupsafe", "sklearn")
