"""Make syft's CycloneDX list the SBOM of the image: the project is its subject, and equal contents give equal bytes.

Reads the list from standard input and writes the SBOM to standard output: sbom_subject.py NAME
VERSION LICENCE
"""

import json
import sys

name, version, licence = sys.argv[1:]
sbom = json.load(sys.stdin)
# Both count the documents made, and every build makes one
for changing in ("serialNumber", "version"):
    sbom.pop(changing, None)
sbom["metadata"].pop("timestamp", None)
purl = f"pkg:pypi/{name}@{version}"
sbom["metadata"]["component"] = {
    "type": "application",
    "bom-ref": purl,
    "name": name,
    "version": version,
    "purl": purl,
    "licenses": [{"license": {"id": licence}}],
}
json.dump(sbom, sys.stdout, indent=1)
