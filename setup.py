"""Makes the README's links absolute for a package index, if setup.cfg's project_urls name a Repository.

Everything else is in setup.cfg. A package index shows the README without the files that it links to.
"""

import configparser
import re
from pathlib import Path


def absolute_links(text, repository, version):
    """A Markdown text with its relative links led to the files of a release in a repository.

    Args:
        text: Markdown.
        repository: the address of the repository, as GitHub and GitLab have it; without a slash at the end.
        version: of the release, whose tag is vVERSION.
    """

    def led(match):
        kind = "raw" if match[1].startswith("!") else "blob"
        return f"{match[1]}{repository}/{kind}/v{version}/{match[2]})"

    return re.sub(r"(!?\[[^\]]*\]\()(?!https?:|mailto:|#)([^)]+)\)", led, text)


if __name__ == "__main__":
    from setuptools import setup

    here = Path(__file__).resolve().parent
    settings = configparser.ConfigParser()
    settings.read(here / "setup.cfg")
    urls = dict(line.split(" = ") for line in settings["metadata"]["project_urls"].strip().splitlines())
    options = {}
    if "Repository" in urls:
        version = re.search(r'"(.*)"', (here / "keras_deeplab" / "version.py").read_text())[1]
        readme = (here / "README.md").read_text(encoding="utf-8")
        options["long_description"] = absolute_links(readme, urls["Repository"].rstrip("/"), version)
    setup(**options)
