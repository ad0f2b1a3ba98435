"""The local server of a study's site.

Here: where it listens (`server`), how files travel to a browser (`application`), and files that no build has written, made when
they are asked for (`on_demand`). Not here: what a page consists of and how it is rendered, which belongs to `core.pages` and
`core.site`, and which layers have tables, which belongs to `study.sources`.
"""

__all__ = ["application", "on_demand", "server"]
