"""Compares two runs of a suite: every test that passes directly must pass through the router.

usage: suites_compare.py SUITE DIRECT.xml ROUTER.xml DIFFERENCES.txt
A line of DIFFERENCES.txt is `SUITE TEST  # why`; one that is not needed is an error as well.
"""

import sys
import xml.etree.ElementTree as ElementTree


def outcomes(path):
    """Name of every test, and whether it passed, failed or was skipped."""
    found = {}
    for case in ElementTree.parse(path).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        children = {child.tag for child in case}
        if children & {"failure", "error"}:
            found[name] = "failed"
        elif "skipped" in children:
            found.setdefault(name, "skipped")
        else:
            found.setdefault(name, "passed")
    return found


def expected(path, suite):
    with open(path) as file:
        lines = [line.split("#")[0].split() for line in file]
    return {line[1] for line in lines if line and line[0] == suite}


def main(suite, direct, router, differences):
    direct, router = outcomes(direct), outcomes(router)
    passed = {name for name, outcome in direct.items() if outcome == "passed"}
    worse = {name for name in passed if router.get(name) != "passed"}
    explained = expected(differences, suite)
    for name in sorted(worse - explained):
        print(f"FAILED  {suite}: {name} passes directly and is {router.get(name, 'not there')} through the router")
    for name in sorted(explained - worse):
        print(f"FAILED  {suite}: {name} is excused and passes: take it off the list")
    count = {outcome: list(router.values()).count(outcome) for outcome in ("passed", "failed", "skipped")}
    print(
        f"{suite}: {len(passed)} pass directly; through the router {count['passed']} pass, {count['failed']} fail, "
        f"{count['skipped']} are skipped; {len(worse & explained)} explained differences"
    )
    # Nothing compared is nothing proven.
    return 1 if worse ^ explained or len(passed) < 100 else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
