"""Prints, as JSON, what docs/drivers.md tells the users of each driver to connect with, made to fit a running demo.

Of each section the blocks of code in the languages `urls` (a list of lines) and `settings` (text). The first URL of a section
names no tenant; the others name the tenant 17, which becomes a tenant of the demo.

usage: documented.py DEMO.JSON DRIVERS.MD [--properties DRIVER]
With --properties: the fleet and the URLs of one driver as lines of `key=value`, for a program that reads no JSON.
"""

import json
import re
import sys
from urllib.parse import urlsplit

from checks import Fleet

BLOCK = re.compile(r"^```(urls|settings)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def documented(fleet, text):
    service = urlsplit(fleet.url)
    fitting = {
        "router.example": service.hostname,
        "6432": str(service.port),
        "secret": service.password,
        "17": fleet.b,
    }
    drivers = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        blocks = {}
        for language, block in BLOCK.findall(section):
            block = re.sub(r"router\.example|\b6432\b|\bsecret\b|(?<!\d)17(?!\d)", lambda found: fitting[found[0]], block)
            blocks[language] = block.splitlines() if language == "urls" else block
        if blocks:
            drivers[section.partition("\n")[0].lower()] = blocks
    return drivers


def properties(fleet, urls):
    service = urlsplit(fleet.url)
    pairs = {
        "host": service.hostname,
        "port": service.port,
        "database": service.path[1:],
        "user": service.username,
        "password": service.password,
        "tenant_role": urlsplit(fleet.tenant_role_url).username,
        "a": fleet.a,
        "b": fleet.b,
        "tenants": ",".join(fleet.tenants),
    }
    pairs |= {f"url.{index}": url for index, url in enumerate(urls)}
    return "\n".join(f"{key}={value}" for key, value in pairs.items())


def main(demo, page, *driver):
    fleet = Fleet(demo)
    with open(page, encoding="utf-8") as file:
        found = documented(fleet, file.read())
    if driver[:1] == ("--properties",):
        print(properties(fleet, found[driver[1]]["urls"]))
    else:
        print(json.dumps(found, indent=1))


main(*sys.argv[1:])
