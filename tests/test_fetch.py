"Downloads against a server on this machine: whole, cut off, with a wrong digest, and without a network"
import hashlib, io, json, sys, threading, zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import pytest
from PIL import Image
from pneumo_imbalance.archive import fetch_chest_xray
from pneumo_imbalance.data import scan_images

def archive():
    "A small zip as the published one: a folder with splits, and what a Mac leaves beside it"
    out, image = io.BytesIO(), io.BytesIO()
    Image.new('L', (40, 30), 128).save(image, 'jpeg')
    with zipfile.ZipFile(out, 'w') as z:
        for split in ('train', 'test'):
            for label in ('NORMAL', 'PNEUMONIA'): z.writestr(f'chest_xray/{split}/{label}/person1_bacteria_1.jpeg', image.getvalue())
        z.writestr('__MACOSX/chest_xray/._train', b'x')
    return out.getvalue()

class Server(ThreadingHTTPServer):
    "Lists one archive and sends it; the first `cuts` times only half of it"
    def __init__(self, cuts=0, digest=None, listed=None):
        super().__init__(('127.0.0.1', 0), Handler)
        self.data, self.cuts, self.asked, self.listed = archive(), cuts, [], listed
        self.at = f'http://127.0.0.1:{self.server_port}'
        self.digest = digest or hashlib.sha256(self.data).hexdigest()

    def answer(self, path):
        details = dict(download_url=f'{self.at}/zip', sha256_hash=self.digest)
        files = [dict(filename='OCT2017.tar.gz'), dict(filename='ChestXRay2017.zip', content_details=details)]
        return self.data if path == '/zip' else json.dumps(files if self.listed is None else self.listed).encode()

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, data = self.server, self.server.answer(self.path)
        server.asked.append(self.path)
        self.send_response(200)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        cut = self.path == '/zip' and server.cuts > 0
        server.cuts -= cut
        self.wfile.write(data[:len(data)//2] if cut else data)

    def log_message(self, *args): pass

@pytest.fixture
def serve(tmp_path, monkeypatch):
    "Starts a server, with a cache folder of its own and no pause between attempts"
    pooch = pytest.importorskip('pooch')
    monkeypatch.setenv('PNEUMO_CACHE', str(tmp_path/'cache'))
    monkeypatch.setattr(pooch.core.time, 'sleep', lambda seconds: None)
    servers = []
    def start(**kwargs):
        servers.append(Server(**kwargs))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return servers[-1]
    yield start
    for o in servers:
        o.shutdown()
        o.server_close()

def nothing_left(tmp_path): return not any(o.is_file() for o in tmp_path.rglob('*'))

def test_whole_and_kept(serve, tmp_path):
    server = serve()
    folder = fetch_chest_xray(tmp_path/'x', server.at)
    assert 'CC BY 4.0' in (folder/'SOURCE.txt').read_text()
    assert sorted(scan_images(folder).label.value_counts()) == [2, 2]
    asked = list(server.asked)
    assert fetch_chest_xray(tmp_path/'x', server.at) == folder and server.asked == asked
    assert not list((tmp_path/'cache').rglob('*.zip'))

def test_default_folder(serve): assert fetch_chest_xray(home=serve().at).name == 'chest_xray'

def test_cut_once_is_tried_again(serve, tmp_path):
    server = serve(cuts=1)
    fetch_chest_xray(tmp_path/'x', server.at)
    assert server.asked.count('/zip') == 2

def test_cut_always(serve, tmp_path):
    with pytest.raises(ConnectionError, match='check the network'): fetch_chest_xray(tmp_path/'x', serve(cuts=9).at)
    assert nothing_left(tmp_path)

def test_wrong_digest(serve, tmp_path):
    with pytest.raises(ValueError, match='found another file'): fetch_chest_xray(tmp_path/'x', serve(digest='0'*64).at)
    assert nothing_left(tmp_path)

@pytest.mark.parametrize('listed', [[], {}, 'x', [dict(filename='ChestXRay2017.zip', content_details=dict(size=1))]])
def test_another_answer(serve, tmp_path, listed):
    with pytest.raises(ValueError, match='by hand'): fetch_chest_xray(tmp_path/'x', serve(listed=listed).at)

def test_no_network(serve, tmp_path):
    server = serve()
    at = server.at
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match='check the network'): fetch_chest_xray(tmp_path/'x', at)

def test_library_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'pooch', None)
    with pytest.raises(ValueError, match=r'pip install .pneumo_imbalance\[fetch\]'): fetch_chest_xray(tmp_path/'x')

def test_folder_in_use(tmp_path):
    (tmp_path/'mine.txt').write_text('x')
    with pytest.raises(ValueError, match='in use'): fetch_chest_xray(tmp_path)
