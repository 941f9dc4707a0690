"""Microsoft's own clients against the tests' Azure: an independent look at what that server says.

Arguments: its port, the file with its certificate authority, the vault, the tenant, an application and its secret. The
application may do everything in the vault but reach what begins with "shut".
"""

import datetime
import socket
import sys

from azure.containerregistry import ContainerRegistryClient
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.identity import CertificateCredential, ClientAssertionCredential, ClientSecretCredential
from azure.keyvault.certificates import CertificateClient, CertificateContentType, CertificatePolicy
from azure.keyvault.keys import JsonWebKey, KeyClient
from azure.keyvault.secrets import SecretClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12

port, authority, vault, tenant, application, secret, pem = sys.argv[1:]
resolve = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **more: resolve("127.0.0.1" if host.endswith((".vault.azure.net", ".azurecr.io")) else host, *rest, **more)
url = f"https://{vault}.vault.azure.net:{port}"
at = {"authority": f"https://localhost:{port}", "disable_instance_discovery": True, "connection_verify": authority}


def refused(kind, status, code, call):
    try:
        call()
    except kind as error:
        inner = error.error.innererror["code"] if error.error and error.error.innererror else None
        assert error.status_code == status and code in (inner, error.error and error.error.code), error
        return error
    raise AssertionError(f"{code} expected")


def wrong(number, credential):
    try:
        credential.get_token("https://vault.azure.net/.default")
    except ClientAuthenticationError as error:
        assert f"AADSTS{number}" in error.message, error.message
        return
    raise AssertionError(f"AADSTS{number} expected")


wrong(7000215, ClientSecretCredential(tenant, application, "not it", **at))
wrong(700016, ClientSecretCredential(tenant, "nobody", secret, **at))
wrong(90002, ClientSecretCredential("nowhere", application, secret, **at))
wrong(50027, ClientAssertionCredential(tenant, application, lambda: "no.token", **at))
# The application's certificate, as Microsoft's client signs with it.
CertificateCredential(tenant, application, pem, **at).get_token("https://vault.azure.net/.default")
credential = ClientSecretCredential(tenant, application, secret, **at)

# The verification compares hosts with their ports, and Azure has none in its.
secrets = SecretClient(url, credential, connection_verify=authority, verify_challenge_resource=False)
first = secrets.set_secret("app", "one", tags={"team": "a"}, content_type="text/plain")
second = secrets.set_secret("app", "two", expires_on=datetime.datetime(2030, 1, 1, tzinfo=datetime.timezone.utc))
assert first.properties.version != second.properties.version and len(second.properties.version) == 32
assert secrets.get_secret("APP").value == "two" and secrets.get_secret("app", first.properties.version).properties.tags == {"team": "a"}
assert secrets.get_secret("app").properties.expires_on.year == 2030
for i in range(60):
    secrets.set_secret(f"s{i:02}", str(i))
assert len(list(secrets.list_properties_of_secrets())) == 61
refused(ResourceNotFoundError, 404, "SecretNotFound", lambda: secrets.get_secret("nowhere"))
refused(HttpResponseError, 403, "ForbiddenByRbac", lambda: secrets.get_secret("unreachable"))
refused(HttpResponseError, 400, "BadParameter", lambda: secrets.get_secret("no_name"))
refused(HttpResponseError, 400, "BadParameter", lambda: secrets.set_secret("s00", "x" * 25601))
secrets.begin_delete_secret("app").wait()
refused(ResourceNotFoundError, 404, "SecretNotFound", lambda: secrets.get_secret("app"))
refused(HttpResponseError, 409, "ObjectIsDeletedButRecoverable", lambda: secrets.set_secret("app", "three"))
secrets.begin_recover_deleted_secret("app").wait()
assert secrets.get_secret("app").value == "two"
secrets.begin_delete_secret("app").wait()
secrets.purge_deleted_secret("app")
secrets.set_secret("app", "four")

private = rsa.generate_private_key(65537, 2048)
keys = KeyClient(url, credential, connection_verify=authority, verify_challenge_resource=False)
n = private.public_key().public_numbers()
jwk = JsonWebKey(kty="RSA", n=n.n.to_bytes(256), e=n.e.to_bytes(3), d=private.private_numbers().d.to_bytes(256))
keys.import_key("sk", jwk, tags={"team": "a"})
found = keys.get_key("sk")
assert found.key.n == n.n.to_bytes(256) and getattr(found.key, "d", None) is None and found.properties.tags == {"team": "a"}
refused(ResourceNotFoundError, 404, "KeyNotFound", lambda: keys.get_key("nowhere"))

name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
now = datetime.datetime.now(datetime.timezone.utc)
builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key()).serial_number(7)
certificate = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1)).sign(private, hashes.SHA256())
certificates = CertificateClient(url, credential, connection_verify=authority, verify_challenge_resource=False)
file = pkcs12.serialize_key_and_certificates(b"test", private, certificate, None, serialization.NoEncryption())
imported = certificates.import_certificate("sc", file)
der = certificate.public_bytes(serialization.Encoding.DER)
assert bytes(imported.cer) == der and bytes(certificates.get_certificate("sc").cer) == der
text = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
text += certificate.public_bytes(serialization.Encoding.PEM)
policy = CertificatePolicy(issuer_name="Unknown", content_type=CertificateContentType.pem)
assert bytes(certificates.import_certificate("sp", text, policy=policy).cer) == der
assert secrets.get_secret("sp").properties.content_type == "application/x-pem-file"
refused(ResourceNotFoundError, 404, "CertificateNotFound", lambda: certificates.get_certificate("nowhere"))
# A registry: the application's token is exchanged for the registry's, as our generator does.
at_registry = {"audience": "https://management.azure.com", "connection_verify": authority}
registry = ContainerRegistryClient(f"https://{vault}-registry.azurecr.io:{port}", credential, **at_registry)
assert list(registry.list_repository_names()) == ["app", "base"]
other = ContainerRegistryClient(f"https://another.azurecr.io:{port}", credential, **at_registry)
try:
    list(other.list_repository_names())
    raise AssertionError("a registry that was not granted")
except ClientAuthenticationError as error:
    assert error.status_code == 401, error
print("Microsoft's clients and this server agree")
