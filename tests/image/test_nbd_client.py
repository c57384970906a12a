"""Exports of NBD servers as images: ours on qemu-nbd's and our own, as QEMU's tools are."""
import subprocess

import pytest

from images import IMG, IO, QEMU_IMG, QEMU_IO, Model, out, run
from nbd_server import BOTH, NBD, QEMU_NBD, SECONDS, Server, serve

SIZE = 8 << 20


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.qcow2"
    run(QEMU_IMG, "create", "-q", "-f", "qcow2", path, SIZE)
    run(QEMU_IO, "-c", "write -q -P 3 1M 2M", "-c", "write -q -z 4M 64k", path)
    run(QEMU_IMG, "bitmap", "--add", "-g", "64k", path, "b0")
    run(QEMU_IO, "-c", "write -q -P 4 6M 128k", path)
    return path


NAMES = [
    ["info", "nbd+unix:///?socket=SOCK"], ["info", "--output=json", "nbd:unix:SOCK"],
    ["info", "nbd+unix:///xxx?socket=SOCK"], ["info", "nbd:unix:SOCK:exportname=zz"],
    ["info", "--image-opts", "driver=nbd,server.type=unix,server.path=SOCK"],
    ["info", "--image-opts", "driver=nbd,path=SOCK,export=yy"],
    ["info", "--image-opts", "driver=raw,file.driver=nbd,file.path=SOCK"],
    ["info", 'json:{"driver":"nbd","server":{"type":"unix","path":"SOCK"}}'],
    ["info", 'json:{"driver":"raw","file":{"driver":"nbd","path":"SOCK"}}'],
    ["info", "nbd:localhost:4"], ["info", "nbd://localhost:4/foo"], ["info", "nbd:"],
    ["info", "nbd:localhost"], ["info", "nbd://"], ["info", "nbd+unix:///"],
    ["info", "nbd+unix:///?sock=/x"], ["info", "nbd+foo://localhost/"],
    ["info", "nbd:unix:/nosock"], ["info", "--image-opts", "driver=nbd"],
    ["info", "--image-opts", "driver=nbd,server.type=foo,server.path=/s"],
    ["info", "--image-opts", "driver=nbd,server.type=unix"],
    ["info", "--image-opts", "driver=nbd,foo=bar,path=SOCK"],
    ["info", "--image-opts", "driver=nbd,path=SOCK,tls-creds=foo"],
    ["info", "nbd+unix:///?socket=SOCK&foo=bar"], ["info", "nbd://localhost:99999/x"],
    ["map", "-f", "raw", "nbd:unix:SOCK"], ["map", "--output=json", "-f", "raw", "nbd:unix:SOCK"],
    ["map", "--output=json", "--image-opts",
     "driver=nbd,path=SOCK,x-dirty-bitmap=qemu:dirty-bitmap:b0"],
    ["map", "--output=json", "--image-opts",
     "driver=nbd,path=SOCK,x-dirty-bitmap=qemu:dirty-bitmap:none"],
    ["create", "-f", "raw", "nbd:unix:SOCK", "1M"],
    ["create", "-f", "qcow2", "nbd:unix:SOCK", "1M"], ["check", "nbd:unix:SOCK"],
    ["resize", "-f", "raw", "nbd:unix:SOCK", "1G"],
]


def test_names_and_messages_are_the_same(tmp_path, image):
    link = tmp_path / "qemu-img"
    link.symlink_to(IMG)
    with serve(tmp_path, QEMU_NBD, "-t", "-r", "-e", "0", "-f", "qcow2", "-B", "b0", image) as s:
        for argv in NAMES:
            argv = [a.replace("SOCK", str(s.socket)) for a in argv]
            theirs, ours = run(QEMU_IMG, *argv, ok=False), run(link, *argv, ok=False)
            assert (ours.stdout, ours.stderr, ours.returncode) == (
                theirs.stdout, theirs.stderr, theirs.returncode), argv


@pytest.mark.parametrize("server", BOTH.values(), ids=BOTH.keys())
def test_random_writes(tmp_path, server):
    path = tmp_path / "a.qcow2"
    run(QEMU_IMG, "create", "-q", "-f", "qcow2", path, SIZE)
    model = Model(SIZE, "client")
    with serve(tmp_path, server, "-t", "-e", "0", "-f", "qcow2", "--discard=unmap", path) as s:
        for _ in range(5):
            argv = [a for _ in range(12) for a in ("-c", model.command(65536))]
            done = run(IO, "-f", "raw", "-d", "unmap", *argv, s.uri())
            assert "failed" not in done.stdout, done.stdout
        model.save(tmp_path / "model.raw")
        run(IMG, "compare", "-f", "raw", "-F", "raw", s.uri(), tmp_path / "model.raw")
        run(IMG, "convert", "-f", "raw", "-O", "raw", s.uri(), tmp_path / "out.raw")
        assert (tmp_path / "out.raw").read_bytes() == bytes(model.data)
        assert s.stop() == 0
    run(QEMU_IMG, "check", path)
    run(QEMU_IMG, "compare", path, tmp_path / "model.raw")


@pytest.mark.parametrize("server", BOTH.values(), ids=BOTH.keys())
@pytest.mark.parametrize("shared", ["1", "8"])
def test_images_of_a_format_inside(tmp_path, server, shared):
    """A whole image converted into an export and out of it again."""
    raw, target = tmp_path / "a.raw", tmp_path / "t.raw"
    model = Model(SIZE, f"inside{shared}")
    for _ in range(20):
        model.command(65536)
    model.save(raw)
    run(QEMU_IMG, "create", "-q", "-f", "raw", target, 2 * SIZE)
    with serve(tmp_path, server, "-t", "-e", shared, "-f", "raw", target) as s:
        run(IMG, "convert", "-f", "raw", "-O", "qcow2", raw, s.uri())
        run(IMG, "compare", "-f", "raw", "-F", "qcow2", raw, s.uri())
        run(QEMU_IMG, "compare", "-f", "raw", "-F", "qcow2", raw, s.uri())
    run(QEMU_IMG, "check", "-f", "qcow2", target)
    run(QEMU_IMG, "compare", "-f", "raw", "-F", "qcow2", raw, target)


def test_a_backing_file_on_a_server(tmp_path, image):
    top = tmp_path / "top.qcow2"
    with serve(tmp_path, QEMU_NBD, "-t", "-r", "-e", "0", "-f", "qcow2", image) as s:
        run(IMG, "create", "-q", "-f", "qcow2", "-b", s.uri(), "-F", "raw", top)
        run(IO, "-c", "read -q -P 3 1M 2M", "-c", "write -q -P 9 2M 4k", "-c",
            "read -q -P 9 2M 4k", "-c", "read -q -P 3 2052k 64k", top)
        run(QEMU_IO, "-c", "read -q -P 9 2M 4k", "-c", "read -q -P 4 6M 128k", top)


def test_a_server_that_is_gone_is_an_error_and_one_that_is_back_is_used(tmp_path):
    raw = tmp_path / "a.raw"
    raw.write_bytes(b"\5" * SIZE)
    server = Server(tmp_path, NBD, "-t", "-f", "raw", raw)
    client = subprocess.Popen([IO, "-f", "raw", server.uri()], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def say(command):
        """The first line of the answer, without prompts."""
        client.stdin.write(command + "\n")
        client.stdin.flush()
        line = client.stdout.readline()
        return line.replace("lodge-io> ", "")

    assert say("read -P 5 0 4k").startswith("read 4096/4096")
    client.stdout.readline()
    server.process.kill()
    server.process.wait(SECONDS)
    server.socket.unlink()
    assert "failed" in say("read -P 5 0 4k")
    server = Server(tmp_path, NBD, "-t", "-f", "raw", raw)
    assert say("read -P 5 4k 4k").startswith("read 4096/4096")
    client.communicate("quit\n", timeout=SECONDS)
    assert server.stop() == 0


# ---- TLS ---------------------------------------------------------------------------------------

def certificate(folder, name, signer, subject, extensions):
    key, request, ext = folder / f"{name}-key.pem", folder / "req.pem", folder / "ext.cnf"
    ext.write_text(extensions)
    run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request,
        "-subj", subject)
    sign = ["-signkey", key] if signer is None else [
        "-CA", folder / f"{signer}-cert.pem", "-CAkey", folder / f"{signer}-key.pem",
        "-CAcreateserial"]
    run("openssl", "x509", "-req", "-in", request, "-days", "30", *sign, "-extfile", ext,
        "-out", folder / f"{name}-cert.pem")


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    certificate(folder, "ca", None, "/CN=Test CA",
                "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n")
    certificate(folder, "server", "ca", "/O=Lodge/CN=localhost",
                "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature,"
                "keyEncipherment\nextendedKeyUsage=serverAuth\n"
                "subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    certificate(folder, "client", "ca", "/C=DE/O=Lodge/CN=somebody",
                "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\n"
                "extendedKeyUsage=clientAuth\n")
    (folder / "keys.psk").write_text("alice:0123456789abcdef0123456789abcdef\n")
    other = folder / "other"
    other.mkdir()
    certificate(other, "ca", None, "/CN=Other CA",
                "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n")
    certificate(other, "client", "ca", "/CN=nobody",
                "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\n"
                "extendedKeyUsage=clientAuth\n")
    (other / "ca-cert.pem").write_bytes((folder / "ca-cert.pem").read_bytes())
    (other / "keys.psk").write_text("alice:00000000000000000000000000000000\n")
    return folder


KINDS = ("x509", "psk")


def creds(kind, folder, endpoint):
    user = ",username=alice" if kind == "psk" and endpoint == "client" else ""
    return ["--object", f"tls-creds-{kind},id=t,dir={folder},endpoint={endpoint}{user}"]


def image_opts(s):
    # QEMU looks at the name in the certificate of a UNIX socket only when told one.
    return ["--image-opts", f"driver=nbd,path={s.socket},tls-creds=t"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", BOTH.values(), ids=BOTH.keys())
@pytest.mark.parametrize("client", [IMG, QEMU_IMG], ids=["lodge-img", "qemu-img"])
def test_tls(tmp_path, pki, image, kind, server, client):
    with serve(tmp_path, server, "-t", "-e", "0", *creds(kind, pki, "server"), "--tls-creds=t",
               "-f", "qcow2", image) as s:
        argv = creds(kind, pki, "client") + image_opts(s)
        if client == QEMU_IMG and kind == "x509":
            argv[-1] += ",tls-hostname=localhost"
        text = out(client, "map", "--output=json", *argv)
        assert '"start": 1048576, "length": 2097152, "depth": 0, "present": true' in text
        plain = run(client, "info", s.uri(), ok=False)
        assert plain.returncode == 1
        wrong = argv.copy()
        wrong[1] = wrong[1].replace(str(pki), str(pki / "other"))
        assert run(client, "info", *wrong, ok=False).returncode == 1
        assert text == out(client, "map", "--output=json", *argv)  # and goes on


@pytest.mark.parametrize("kind", KINDS)
def test_tls_carries_much(tmp_path, pki, kind):
    raw = tmp_path / "a.raw"
    model = Model(SIZE, kind)
    model.data[:4 << 20] = model.random.randbytes(4 << 20)
    model.save(raw)
    (tmp_path / "t.raw").write_bytes(bytes(SIZE))
    with serve(tmp_path, NBD, "-t", "-e", "0", *creds(kind, pki, "server"), "--tls-creds=t",
               "-f", "raw", "t.raw") as s:
        uri = (s.uri(tls=True, query=f"&tls-certificates={pki}") if kind == "x509" else
               s.uri(tls=True, query=f"&tls-psk-file={pki}/keys.psk").replace("///", "//alice@/"))
        run("nbdcopy", "--connections=4", raw, uri)
        run("nbdcopy", "--connections=4", "--requests=64", uri, tmp_path / "back.raw")
        assert (tmp_path / "back.raw").read_bytes() == bytes(model.data)
        run(IMG, "compare", *creds(kind, pki, "client"), "--image-opts",
            f"driver=nbd,path={s.socket},tls-creds=t", "driver=raw,file.filename=" + str(raw))


AUTHZ = {
    "yes": ["authz-simple,id=z,identity=C=DE,,O=Lodge,,CN=somebody"],
    "no": ["authz-simple,id=z,identity=CN=else"],
    "rule": ["authz-list,id=z,policy=deny,rules.0.match=C=DE*some*,rules.0.policy=allow,"
             "rules.0.format=glob"],
    "denied": ["authz-list,id=z,policy=allow,rules.0.match=*somebody*,rules.0.policy=deny,"
               "rules.0.format=glob"],
}


@pytest.mark.parametrize("rule", AUTHZ.keys())
def test_authorization(tmp_path, pki, image, rule):
    codes = {}
    for name, server in BOTH.items():
        with serve(tmp_path, server, "-t", "-e", "0", *creds("x509", pki, "server"),
                   "--tls-creds=t", "--tls-authz=z", "--object", AUTHZ[rule][0],
                   "-f", "qcow2", image) as s:
            codes[name] = run(IMG, "info", *creds("x509", pki, "client"), *image_opts(s),
                              ok=False).returncode
    assert codes["ours"] == codes["qemu"] == (0 if rule in ("yes", "rule") else 1)


def test_lists_over_tls(tmp_path, pki, image):
    with serve(tmp_path, NBD, "-t", "-e", "0", *creds("psk", pki, "server"), "--tls-creds=t",
               "-f", "qcow2", image) as s:
        argv = ["-L", "-k", s.socket, *creds("psk", pki, "client"), "--tls-creds=t"]
        assert out(NBD, *argv) == out(QEMU_NBD, *argv)
