#!/usr/bin/env python3
"""Writes a CycloneDX 1.5 SBOM of what is linked into the binary `lockstep`: release/sbom.py OUT.json

Made from cargo's own resolution for the release target without proc macros, build and test dependencies, which no general tool leaves out of a
workspace. The same commit gives the same bytes: the time is that of the commit, and the serial number is a hash of the content.
"""

import datetime
import json
import os
import subprocess
import sys
import tomllib
import uuid

TARGET = "x86_64-unknown-linux-musl"
ROOT = "lockstep"


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def linked():
    """Each linked crate as (name, version), with those that it is linked with."""
    lines = output(
        "cargo", "tree", "--locked", "--package", ROOT, "--edges", "normal,no-proc-macro", "--target", TARGET,
        "--prefix", "depth", "--format", " {p}",
    ).splitlines()
    edges, path = {}, []
    for line in lines:
        depth, name, version, *_ = line.split()
        crate = (name, version.removeprefix("v"))
        del path[int(depth):]
        edges.setdefault(crate, set())
        if path:
            edges[path[-1]].add(crate)
        path.append(crate)
    return edges


def purl(crate):
    name, version = crate
    return f"pkg:cargo/{name}@{version.replace('+', '%2B')}"


def component(crate, packages, checksums):
    package = packages[crate]
    told = {"type": "library", "bom-ref": purl(crate), "name": crate[0], "version": crate[1], "purl": purl(crate)}
    if package["description"]:
        told["description"] = " ".join(package["description"].split())
    if package["license"]:
        # Before SPDX, crates wrote "A/B" for "A OR B".
        told["licenses"] = [{"expression": " OR ".join(part.strip() for part in package["license"].split("/"))}]
    if checksums.get(crate):
        told["hashes"] = [{"alg": "SHA-256", "content": checksums[crate]}]
    if package["repository"]:
        told["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
    return told


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: release/sbom.py OUT.json")
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or output("git", "log", "-1", "--format=%ct"))
    with open("Cargo.lock", "rb") as lock:
        checksums = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.load(lock)["package"]}
    metadata = json.loads(output("cargo", "metadata", "--format-version=1", "--locked"))
    packages = {(p["name"], p["version"]): p for p in metadata["packages"]}
    edges = linked()
    root = next(crate for crate in edges if crate[0] == ROOT)
    body = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": component(root, packages, checksums) | {"type": "application"},
        },
        "components": [component(crate, packages, checksums) for crate in sorted(edges) if crate != root],
        "dependencies": [{"ref": purl(crate), "dependsOn": sorted(map(purl, edges[crate]))} for crate in sorted(edges)],
    }
    body["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True)).urn
    with open(sys.argv[1], "w") as out:
        json.dump(body, out, indent=1, sort_keys=True)
        out.write("\n")


main()
