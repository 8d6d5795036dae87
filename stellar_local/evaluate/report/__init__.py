"""Pages that tell what was measured: models side by side, with intervals, plots and examples, as HTML and as Markdown.

Layers: command > document, page, markdown > section, judged, appendix, charts > overview, items > figures >
comparison > collected > wording > blocks
"""
