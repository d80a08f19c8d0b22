"""Validates YAML files by a JSON schema, as editors do: schema_check.py SCHEMA FILE...

Prints the place of each mistake, FILE:$.key.path; refuses a schema that is none.
"""

import json
import pathlib
import sys

from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

schema = json.loads(pathlib.Path(sys.argv[1]).read_text())
Draft202012Validator.check_schema(schema)
for path in sys.argv[2:]:
    tree = YAML(typ="safe", pure=True).load(pathlib.Path(path))
    for error in sorted(Draft202012Validator(schema).iter_errors(tree), key=lambda e: e.json_path):
        print(f"{pathlib.Path(path).name}:{error.json_path}")
