"""Google's own client against the tests' Google Cloud: an independent look at what that server says.

Arguments: its URL, the file of a service account's key, the project. The account may do everything there but reach "shut".
"""

import json
import sys

from google.api_core import exceptions
from google.cloud import secretmanager_v1
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import SecretManagerServiceRestTransport
from google.oauth2 import service_account

url, key_file, project = sys.argv[1:]
key = json.load(open(key_file))
# The audience of the assertion stays Google's; only the address is another.
key["token_uri"] = url + "/token"
credentials = service_account.Credentials.from_service_account_info(
    key, scopes=["https://www.googleapis.com/auth/cloud-platform"], always_use_jwt_access=False
)
transport = SecretManagerServiceRestTransport(host=url, credentials=credentials)
# Set after the fact: the transport would turn self-signed tokens on.
client = secretmanager_v1.SecretManagerServiceClient(transport=transport)
parent = f"projects/{project}"


def refused(status, call):
    try:
        call()
    except exceptions.GoogleAPICallError as error:
        said = error.response.json()["error"]
        assert said["status"] == status and said["code"] == error.code, error
        return error
    raise AssertionError(f"{status} expected")


for i in range(120):
    secret = {"replication": {"automatic": {}}, "labels": {"team": "a" if i % 2 else "b"}}
    client.create_secret(parent=parent, secret_id=f"s{i:03}", secret=secret)
refused("ALREADY_EXISTS", lambda: client.create_secret(parent=parent, secret_id="s000", secret={"replication": {"automatic": {}}}))
refused("INVALID_ARGUMENT", lambda: client.create_secret(parent=parent, secret_id="no/name", secret={"replication": {"automatic": {}}}))
assert len(list(client.list_secrets(parent=parent))) == 120
half = list(client.list_secrets(request={"parent": parent, "filter": "labels.team=a", "page_size": 7}))
assert len(half) == 60 and all(s.labels["team"] == "a" for s in half)

name = f"{parent}/secrets/s000"
refused("NOT_FOUND", lambda: client.access_secret_version(name=f"{name}/versions/latest"))
first = client.add_secret_version(parent=name, payload={"data": b"a\n", "data_crc32c": 163439259})
assert first.name.endswith("/versions/1") and first.state == secretmanager_v1.SecretVersion.State.ENABLED
refused("INVALID_ARGUMENT", lambda: client.add_secret_version(parent=name, payload={"data": b"a\n", "data_crc32c": 1}))
refused("INVALID_ARGUMENT", lambda: client.add_secret_version(parent=name, payload={"data": b"x" * 65537}))
client.add_secret_version(parent=name, payload={"data": b"\x00\xff"})
answer = client.access_secret_version(name=f"{name}/versions/latest")
assert answer.payload.data == b"\x00\xff" and answer.name.endswith("/versions/2")
assert client.access_secret_version(name=f"{name}/versions/1").payload.data_crc32c == 163439259

update = client.update_secret(secret={"name": name, "version_aliases": {"old": 1}, "etag": client.get_secret(name=name).etag}, update_mask={"paths": ["version_aliases"]})
assert update.version_aliases["old"] == 1
assert client.access_secret_version(name=f"{name}/versions/old").payload.data == b"a\n"
client.disable_secret_version(name=f"{name}/versions/2")
off = refused("FAILED_PRECONDITION", lambda: client.access_secret_version(name=f"{name}/versions/latest"))
assert "DISABLED" in str(off)
enabled = list(client.list_secret_versions(request={"parent": name, "filter": "state:ENABLED"}))
assert [v.name.rsplit("/", 1)[1] for v in enabled] == ["1"]
client.destroy_secret_version(name=f"{name}/versions/1")
refused("FAILED_PRECONDITION", lambda: client.access_secret_version(name=f"{name}/versions/old"))

refused("FAILED_PRECONDITION", lambda: client.delete_secret(request={"name": name, "etag": '"99"'}))
client.delete_secret(name=name)
refused("NOT_FOUND", lambda: client.get_secret(name=name))
refused("PERMISSION_DENIED", lambda: client.access_secret_version(name=f"{parent}/secrets/unreachable/versions/latest"))
print("Google's client and this server agree")
