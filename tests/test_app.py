"The page of `pneumo-app`: who may ask, files of any kind, nothing kept, and a real browser that uploads, reads and moves the slider."
import http.client, io, json, os, re, shutil, signal, socket, struct, subprocess, sys, tempfile, threading, time, zipfile, zlib
from contextlib import contextmanager
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
import numpy as np, pytest
from PIL import Image
from pneumo_imbalance import app
from pneumo_imbalance.app import answer_html, image_app, look_at, pneumo_app
from pneumo_imbalance.block import xray_dataloaders
from pneumo_imbalance.data import scan_images
from pneumo_imbalance.dicom_phantom import write_dicom
from pneumo_imbalance.evaluate import predict
from pneumo_imbalance.fingerprint import fingerprint
from pneumo_imbalance.local import local_app
from pneumo_imbalance.metrics import predictive_values, simulate_predictions
from pneumo_imbalance.model import load_model, save_model
from pneumo_imbalance.phantom import make_phantoms
from pneumo_imbalance.split import split_valid
from pneumo_imbalance.train import set_seed, xray_learner
from torch import nn

pytest.importorskip('starlette')
from starlette.testclient import TestClient # noqa: E402

here, markup = 'http://127.0.0.1', '<img src=x onerror=alert(1)>'

def small():
    "A body of two layers"
    return nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())

def flat():
    "A body whose maps are vectors"
    return nn.Sequential(nn.Flatten(), nn.Linear(3*32*32, 8), nn.ReLU())

def trained(df, folder, arch=small, **kwargs):
    "A model folder of a network with random weights"
    dls = xray_dataloaders(df, item_size=48, size=32, bs=8, device='cpu')
    set_seed(1)
    learn = xray_learner(dls, arch, pretrained=False)
    valid, test = (predict(learn, df[df.split == o]) for o in ('valid', 'test'))
    return save_model(learn, folder, valid, test, **kwargs)

@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "Phantoms of 40 patients and more, and their table"
    counts = dict(train=dict(NORMAL=30, PNEUMONIA=60), test=dict(NORMAL=12, PNEUMONIA=16))
    return split_valid(scan_images(make_phantoms(tmp_path_factory.mktemp('images')/'xray', counts, size=64)), valid_pct=.3)

@pytest.fixture(scope='module')
def folder(images, tmp_path_factory): return trained(images, tmp_path_factory.mktemp('model')/'tiny', threshold='youden')

@pytest.fixture
def model(folder, images):
    "The model, with a fingerprint of its training images and predictions as of a network that has learned"
    m = load_model(folder, arch=small, device='cpu')
    m.home = simulate_predictions(dict(NORMAL=90, PNEUMONIA=60))
    m.fingerprint = m.fingerprint or fingerprint(images)
    return m

@pytest.fixture
def image(images): return Path(images[images.split == 'test'].path.iloc[0]).read_bytes()

def post(client, data, name='a.png', **headers):
    return client.post('/', files=dict(image=(name, data)), headers=dict(origin=str(client.base_url)) | headers)

def client_of(m): return TestClient(image_app(m), base_url=here)

def number(text): return float(re.match(r'[\d.]+', text)[0])

class Text(HTMLParser):
    "Tags, attributes and visible text of a page"
    def __init__(self, page):
        super().__init__()
        self.tags,self.attrs,self.text,self.inside = [],{},'',''
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.inside = tag
        self.tags.append(tag)
        for k,v in attrs: self.attrs.setdefault(k, []).append(v)

    def handle_data(self, data): self.text += '' if self.inside in ('script', 'style') else data

# What is said

def test_the_page_says_what_the_model_says(model, image):
    page, o = Text(answer_html(model, image, 'a.png')), look_at(model, image)
    preds = model.predict(image, temperature=True, threshold=True)
    assert o.called == preds.predicted[0] and f'calls this image {o.called}.' in page.text
    for c in model.classes: assert f'{c} {preds[f"prob_{c}"][0]:.3f}' in page.text
    assert o.line == model.scaled_threshold and any(f'threshold {o.line:.3f}' in v for v in page.attrs['aria-label'])
    assert {'The answer', 'What the network saw'} <= {*re.findall('<h2>(.*?)</h2>', answer_html(model, image))}
    assert 'Not for clinical use.' in page.text and '150 test images' in page.text

def test_ppv_and_npv_are_those_of_bayes(model, image):
    page = Text(answer_html(model, image))
    rows = json.loads(page.attrs['data-rows'][0])
    table, _ = app._home(model, 'PNEUMONIA')
    sens, spec = (table.attrs[k][0] for k in ('sensitivity', 'specificity'))
    for share,ppv,npv in rows:
        values = predictive_values(sens, spec, number(share)/100)
        for said,v in zip((ppv, npv), values): assert abs(number(said)/100 - v) < 6e-4
    assert int(page.attrs['value'][0]) == [o[0] for o in rows].index('40 %')

def test_seen_and_unseen(model, images, image):
    train = images[images.split == 'train'].path.iloc[0]
    assert 'This very file was trained on' in answer_html(model, Path(train).read_bytes())
    assert 'This very file was not trained on' in answer_html(model, image)
    model.fingerprint = dict(images=5)
    page = answer_html(model, image)
    assert 'nobody knows whether this file was trained on' in page and 'can not be told' in page

def test_unlike(model, image):
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), 'uint8')).save(noise, 'PNG')
    assert look_at(model, noise.getvalue()).share < .01 < look_at(model, image).share
    assert 'It is not like them' in answer_html(model, noise.getvalue())

@pytest.mark.parametrize('share,says', [(.4, '40% of the training images lie'), (.03, 'unusual'), (.002, 'Fewer than 1 in 200'),
    (0, 'No training image lies'), (np.nan, 'can not be told')])
def test_words_for_a_share(share, says): assert says in app._unlike_words(share)

def test_a_model_without_predictions_temperature_and_threshold(model, image):
    model.home,model.threshold,model.temperature = None,None,None
    model.about = model.about | dict(threshold=None, temperature=None)
    page = Text(answer_html(model, image))
    for o in ('holds no labelled predictions', 'No threshold was chosen', 'No temperature was fitted'): assert o in page.text
    assert 'range' not in page.attrs['type']

def test_predictions_of_validation_images_flatter(model, image):
    model.home = model.home.assign(split='valid')
    assert 'so these numbers flatter' in answer_html(model, image)
    model.home = model.home[model.home.label == 'NORMAL']
    assert 'found 0 of 90 to be PNEUMONIA' in answer_html(model, image)

def test_several_classes_and_no_maps(images, tmp_path):
    df = images.assign(label=[f'{markup} {i%3}' for i in range(len(images))])
    for name,kwargs in dict(plain={}, looked=dict(threshold=.3, positive=f'{markup} 1', temperature=2.)).items():
        m = load_model(trained(df, tmp_path/name, flat, **kwargs), arch=flat, device='cpu')
        page = answer_html(m, Path(df.path[0]).read_bytes())
        assert markup not in page and 'has no maps' in page and page.count('<svg') == 3
        says = 'the most probable of the other classes is taken' if kwargs else 'by its most probable class'
        assert says in page and ('before the temperature; this image has' in page) == bool(kwargs)

# Who may ask

def test_headers_cookies_and_nothing_from_elsewhere(model, image):
    client = client_of(model)
    for page in (client.get('/'), post(client, image), post(client, b'junk'), client.get('/no'), client.put('/'),
        client.get('/', headers=dict(host='example.org'))):
        policy = page.headers['content-security-policy']
        assert policy.startswith("default-src 'none'; img-src data:; ") and 'unsafe' not in policy and 'http' not in policy
        assert page.headers['cache-control'] == 'no-store' and page.headers['referrer-policy'] == 'same-origin'
        assert 'set-cookie' not in page.headers and not re.search(r'https?://|style=| on\w+=', page.text)
        assert all(v.startswith('data:') for k in ('src', 'href') for v in Text(page.text).attrs.get(k, []))

@pytest.mark.parametrize('headers,status', [(dict(origin='http://evil.example'), 403), (dict(origin='null'), 403), (dict(origin=''), 403),
    (dict(host='evil.example', origin='http://evil.example'), 400), (dict(host='127.0.0.1.evil.example'), 400),
    (dict(host='localhost', origin='http://localhost'), 200), (dict(host='localhost', origin=here), 403)], ids=str)
def test_host_and_origin(model, image, headers, status): assert post(client_of(model), image, **headers).status_code == status

@contextmanager
def served(asgi):
    "The port of a running app"
    import uvicorn
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        server = uvicorn.Server(uvicorn.Config(asgi, log_level='error', ws='none'))
        thread = threading.Thread(target=server.run, args=([s],))
        thread.start()
        try: yield s.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()

def raw(port, head, body=b''):
    "The status of a request written by hand"
    with socket.create_connection(('127.0.0.1', port), timeout=10) as s:
        s.sendall(f'POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\n{head}\r\n\r\n'.encode() + body)
        return int(s.recv(100).split()[1])

def test_too_large_is_refused_before_it_is_read():
    form, asked = 'Content-Type: multipart/form-data; boundary=a', []
    with served(local_app(lambda says: says, lambda name, data: asked.append(name))) as port:
        assert raw(port, f'{form}\r\nContent-Length: 9000000000') == 413
        assert raw(port, f'{form}\r\nTransfer-Encoding: chunked', b'5\r\nabcde\r\n0\r\n\r\n') == 411
        assert raw(port, f'{form}\r\nContent-Length: 5', b'abcde') == 400
        assert raw(port, 'Content-Type: text/plain\r\nContent-Length: 5', b'abcde') == 415
    assert not asked

def test_one_at_a_time():
    now, most = [], []
    def answer(name, data):
        now.append(name)
        most.append(len(now))
        time.sleep(.05)
        now.pop()
        return 'done'
    body = b'--a\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc\r\n--a--\r\n'
    def ask(port):
        c = http.client.HTTPConnection('127.0.0.1', port)
        c.request('POST', '/', body, {'Origin': f'http://127.0.0.1:{port}', 'Content-Type': 'multipart/form-data; boundary=a'})
        assert c.getresponse().read() == b'done'
    with served(local_app(lambda says: says, answer)) as port:
        threads = [threading.Thread(target=ask, args=(port,)) for _ in range(5)]
        for o in threads: o.start()
        for o in threads: o.join()
    assert most == [1]*5

def test_what_goes_wrong_inside_is_a_sentence():
    def answer(name, data): raise RuntimeError('Doe^Jane')
    page = post(TestClient(local_app(lambda says: says, answer), base_url=here), b'abc')
    assert page.status_code == 500 and 'RuntimeError' in page.text and 'Doe' not in page.text

# Files of any kind

def chunk(kind, data): return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

def zipped():
    with zipfile.ZipFile(f := io.BytesIO(), 'w') as z: z.writestr('a.png', b'0'*1000)
    return f.getvalue()

def dicom(folder, size=64, **header):
    write_dicom(folder/'a.dcm', np.tile(np.arange(size), (size, 1)), **header)
    return (folder/'a.dcm').read_bytes()

png = b'\x89PNG\r\n\x1a\n'
bomb = png + chunk(b'IHDR', struct.pack('>LLBBBBB', 90_000, 90_000, 8, 0, 0, 0, 0)) + chunk(b'IDAT', b'') + chunk(b'IEND', b'')
hostile = dict(empty=b'', html=f'<html><script>{markup}</script>'.encode(), zip=zipped(), bomb=bomb, cut=png, preamble=bytes(128) + b'DICM',
    text=b'\0'*5000, svg=b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>')

@pytest.mark.parametrize('kind', hostile)
def test_hostile_files(model, kind):
    page = post(client_of(model), hostile[kind], f'{markup}.png')
    assert page.status_code == 422 and markup not in page.text
    assert len(re.findall('Expected one JPEG, PNG or DICOM picture, found a file that is [^;<]+; choose another[.]<', page.text)) == 1

def test_cut_image_and_dicom_that_is_wrong(model, image, tmp_path):
    pytest.importorskip('pydicom')
    client, good = client_of(model), dicom(tmp_path)
    spoilt = good.replace(b'LINEAR_EXACT', b'LINEAR_EXACX')
    huge = good.replace(struct.pack('<HH2sHH', 0x28, 0x10, b'US', 2, 64), struct.pack('<HH2sHH', 0x28, 0x10, b'US', 2, 60_000))
    huge = huge.replace(struct.pack('<HH2sHH', 0x28, 0x11, b'US', 2, 64), struct.pack('<HH2sHH', 0x28, 0x11, b'US', 2, 60_000))
    assert post(client, spoilt).status_code in (200, 422)
    kinds = (image[:len(image)//2], 'truncated'), (huge, 'too large (60000 × 60000 pixels)'), (good[:600], 'found a file that is')
    for data,says in kinds:
        page = post(client, data)
        assert page.status_code == 422 and says in page.text

def test_a_header_is_never_shown(model, tmp_path):
    pytest.importorskip('pydicom')
    said = dict(PatientID='MRN-123456', PatientName='Doe^Jane', PatientBirthDate='19610203', StudyDate='20190530', AccessionNumber='ACC777',
        ReferringPhysicianName='Who^Doctor', PatientAge='058Y', PatientSex='F')
    good = dicom(tmp_path, **said)
    at = good.index(b'\x28\x00\x50\x10DS') # the window's centre: a name where a number should be
    worse = good[:at+6] + struct.pack('<H', 8) + b'Doe^Jane' + good[at+8+struct.unpack_from('<H', good, at + 6)[0]:]
    for data in (good, worse, good[:-3000]):
        page = post(client_of(model), data).text
        assert not [o for o in ('MRN', '123456', 'Doe', 'Jane', '19610203', '20190530', 'ACC777', 'Who', '058') if o in page]
    assert 'calls this image' in post(client_of(model), good).text

# Nothing stays

def files(folder): return sorted(str(o) for o in folder.rglob('*'))

def test_nothing_is_kept(model, tmp_path, monkeypatch, capsys):
    for o in ('cache', 'tmp', 'home'): (tmp_path/o).mkdir()
    monkeypatch.setenv('PNEUMO_CACHE', str(tmp_path/'cache'))
    monkeypatch.setenv('HOME', str(tmp_path/'home'))
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path/'tmp'))
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, 'rollover', lambda self: 1/0)
    monkeypatch.chdir(tmp_path)
    before, large = files(tmp_path), io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1500, 1500), 'uint8')).save(large, 'PNG')
    kinds = [large.getvalue(), b'junk', *([dicom(tmp_path, PatientID='1')] if find_spec('pydicom') else [])]
    (tmp_path/'a.dcm').unlink(missing_ok=True)
    client = client_of(model)
    assert [post(client, o).status_code for o in kinds] == [200, 422, 200][:len(kinds)] and len(kinds[0]) > 2e6
    assert files(tmp_path) == before and os.environ['PNEUMO_CACHE'] == str(tmp_path/'cache')
    assert capsys.readouterr() == ('', '') and len(model._held) == 1

# The command

@pytest.mark.parametrize('args,says', [(['nowhere'], 'expected a model folder'), (['.', '--port', '70000'], 'expected')])
def test_wrong_input(args, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pneumo_app(args) == 2 and says in capsys.readouterr().err

def test_a_port_in_use(folder, capsys, monkeypatch):
    monkeypatch.setattr(app, 'load_model', lambda o: load_model(o, arch=small))
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        assert pneumo_app([str(folder), '--port', str(s.getsockname()[1])]) == 2
    assert 'expected a free port' in capsys.readouterr().err

def test_without_the_extra_one_sentence_names_it(model, monkeypatch):
    monkeypatch.setattr('pneumo_imbalance.local.find_spec', lambda o: None)
    with pytest.raises(ValueError, match=r"pip install 'pneumo_imbalance\[app\]'"): image_app(model)

def test_ctrl_c_ends_it():
    hear = 'import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)'
    code = f'{hear}; import argparse; from pneumo_imbalance import command, local'
    work = "work = lambda: local.serve(local.local_app(str, str), 'tiny')"
    ends = "sys.exit(command.run_command(argparse.ArgumentParser('pneumo-app'), [], work, lambda *o: 'nothing was kept'))"
    p = subprocess.Popen([sys.executable, '-c', f'{code}; {work}; {ends}'], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    at = re.search(r'tiny answers at http://127.0.0.1:(\d+)/ \(on this computer only\)', p.stdout.readline())
    c = http.client.HTTPConnection('127.0.0.1', int(at[1]), timeout=20)
    c.request('GET', '/')
    assert c.getresponse().status == 200
    p.send_signal(signal.SIGINT)
    _, err = p.communicate(timeout=20)
    assert p.returncode == 130 and err.strip() == 'pneumo-app: interrupted; nothing was kept'

# A browser

@pytest.fixture(scope='module')
def chromium():
    "Debian's chromium, headless; skips where there is none"
    sync_api = pytest.importorskip('playwright.sync_api')
    path = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    if not path: pytest.skip('no chromium on this computer')
    root = hasattr(os, 'geteuid') and os.geteuid() == 0
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=['--no-sandbox']*root)
        yield browser
        browser.close()

@contextmanager
def tab(browser, port, width=1280, **kwargs):
    "A tab at the page; nothing may be asked of another host, and no script may fail"
    context = browser.new_context(viewport=dict(width=width, height=900), **kwargs)
    page, asked, faults = context.new_page(), [], []
    page.on('request', lambda o: asked.append(o.url))
    for k in ('console', 'pageerror'): page.on(k, lambda o: faults.append(getattr(o, 'text', o)))
    page.goto(f'http://127.0.0.1:{port}/')
    yield page
    assert {o for o in asked if not o.startswith('data:')} == {f'http://127.0.0.1:{port}/'} and context.cookies() == []
    assert not [o for o in faults if '422' not in str(o)]
    context.close()

def upload(page, file):
    page.set_input_files('#image', file)
    page.get_by_role('button', name='Ask the network').click()

def test_in_a_browser(chromium, model, image, images):
    o, path = look_at(model, image), images[images.split == 'test'].path.iloc[0]
    sens, spec = (app._home(model, 'PNEUMONIA')[0].attrs[k][0] for k in ('sensitivity', 'specificity'))
    with served(image_app(model)) as port:
        for width in (1280, 390):
            with tab(chromium, port, width) as page:
                upload(page, path)
                page.wait_for_selector('#prevalence')
                assert f'PNEUMONIA {o.probs["PNEUMONIA"]:.3f}' in page.inner_text('main')
                assert page.evaluate('document.documentElement.scrollWidth') <= width
                slider = page.get_by_label('Share of PNEUMONIA among those who are examined')
                for key,share in (('Home', .001), ('ArrowRight', .002), ('End', .99)):
                    slider.press(key)
                    assert page.inner_text('#share') == f'{100*share:g} %' == slider.get_attribute('aria-valuetext')
                    for k,v in zip(('PPV', 'NPV'), predictive_values(sens, spec, share)):
                        assert abs(number(page.inner_text(f'#{k}')) - 100*v) < .06
                upload(page, dict(name=f'{markup}.png', mimeType='image/png', buffer=b'junk'))
                page.wait_for_selector('text=found a file that is not an image')
                assert page.locator('img').count() == 0

def test_in_a_browser_without_scripts(chromium, model, images):
    with served(image_app(model)) as port, tab(chromium, port, java_script_enabled=False) as page:
        page.keyboard.press('Tab')
        assert page.locator('input:focus').get_attribute('id') == 'image'
        upload(page, images.path.iloc[0])
        page.wait_for_selector('#PPV')
        assert page.locator('table tr').count() == 7 and page.locator('figure img').count() == 2
        assert all(o.get_attribute('alt') for o in page.locator('img').all())

def test_another_page_can_not_ask(chromium, model):
    evil = b'<form method=post enctype=multipart/form-data action="http://127.0.0.1:%d/"><input name=image><button>Go</button></form>'
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse
    from starlette.routing import Route
    with served(image_app(model)) as port:
        with served(Starlette(routes=[Route('/', lambda req: HTMLResponse(evil % port))])) as other:
            page = chromium.new_page()
            page.goto(f'http://127.0.0.1:{other}/')
            with page.expect_response(f'http://127.0.0.1:{port}/') as got: page.get_by_role('button').click()
            assert got.value.status == 403
            page.close()
