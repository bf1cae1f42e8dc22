"A saved model: the same answers for any way of reading and any network, one sentence for each folder that was tampered with, no pickle."
import json, os, pickle, random, shutil, subprocess, sys, threading
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from pneumo_imbalance.bundle import BUNDLE_FILES
from pneumo_imbalance.phantom import make_phantoms
from pneumo_imbalance.data import read_table, scan_images
from pneumo_imbalance.split import split_valid
from pneumo_imbalance.block import xray_dataloaders
from pneumo_imbalance.train import set_seed, xray_learner
from pneumo_imbalance.evaluate import predict
from pneumo_imbalance.interpret import grad_cam
from pneumo_imbalance.losses import PriorShift, end_in_cosine
from pneumo_imbalance.model import Model, load_model, save_model

def small(): return nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())

def vectors(): return nn.Sequential(small(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

def other(): return small()

@pytest.fixture(scope='module')
def images(tmp_path_factory):
    "Phantoms large enough for a JPEG to be decoded at a half"
    counts = dict(train=dict(NORMAL=10, PNEUMONIA=22), test=dict(NORMAL=4, PNEUMONIA=6))
    folder = make_phantoms(tmp_path_factory.mktemp('images')/'xray', counts, size=150)
    return split_valid(scan_images(folder), valid_pct=.3)

@pytest.fixture(scope='module')
def coloured(images, tmp_path_factory):
    "The same in colour, four classes"
    root, df = tmp_path_factory.mktemp('coloured'), images.copy()
    for i,p in enumerate(df.path):
        im = Image.merge('RGB', [Image.open(p).convert('L').point(lambda v, k=k: v*k//3) for k in (3, 2, 1)])
        im.save(root/f'{i}.jpg', quality=95)
    label = [f'{o} {i%2}' for i,o in enumerate(df.label)]
    return read_table(df[['split', 'patient']].assign(label=label, path=[str(root/f'{i}.jpg') for i in range(len(df))]))

def learner(df, arch=small, **kwargs):
    "An untrained learner on the processor"
    dls = xray_dataloaders(df, item_size=64, **dict(size=32, bs=8, device='cpu', on_leak='ignore', num_workers=0) | kwargs)
    set_seed(0)
    return xray_learner(dls, arch, pretrained=False)

def probs(preds): return preds.filter(like='prob_').to_numpy()

def same(learn, df, folder, arch=None):
    "The saved model says what the learner says, bit for bit; the model"
    model = load_model(save_model(learn, folder), arch, 'cpu')
    a, b = predict(learn, df), model.predict(df)
    pd.testing.assert_frame_equal(a, b)
    return model

# The same answers

@pytest.mark.parametrize('method', ['squish', 'crop', 'pad'])
def test_gray_images_in_any_square(images, tmp_path, method):
    learn = learner(images, method=method)
    rows = images[images.split == 'valid']
    model = same(learn, rows, tmp_path/'m', small)
    assert model.about['channels'] == 1 and model.about['presized'] and model.about['method'] == method
    np.testing.assert_array_equal(grad_cam(learn, rows), grad_cam(model.learn, rows))

@pytest.mark.parametrize('method', ['squish', 'crop', 'pad'])
def test_colour_and_four_classes(coloured, tmp_path, method):
    model = same(learner(coloured, method=method), coloured[coloured.split == 'valid'], tmp_path/'m', small)
    assert model.about['channels'] == 3 and len(model.classes) == 4 and model.positive is None

def test_images_that_are_decoded_anew_each_time(images, tmp_path):
    model = same(learner(images, cache=False), images, tmp_path/'m', small)
    assert not model.about['presized']

networks = dict(resnet18='torchvision', shufflenet_v2_x0_5='torchvision', resnet10t='timm') | {vectors: 'function'}

@pytest.mark.parametrize('arch,kind', networks.items())
def test_any_network(images, tmp_path, arch, kind):
    if kind == 'timm': pytest.importorskip('timm')
    model = same(learner(images, arch), images[images.split == 'valid'], tmp_path/'m', arch if kind == 'function' else None)
    assert model.about['arch_kind'] == kind

@pytest.mark.parametrize('cosine', [False, True])
def test_a_network_that_ends_in_a_prior_shift(images, tmp_path, cosine):
    learn = learner(images)
    if cosine: end_in_cosine(learn.model)
    learn.model.append(PriorShift([.3, .7]))
    model = same(learn, images[images.split == 'valid'], tmp_path/'m', small)
    assert model.about['shift'] and model.about['cosine'] == cosine
    np.testing.assert_allclose(model.learn.model[-1].log_prior.exp().numpy(), [.3, .7], rtol=1e-6)

def test_a_size_that_is_pooled_first(images, tmp_path): same(learner(images, size=16), images[images.split == 'valid'], tmp_path/'m', small)

def test_when_the_images_are_gone(images, tmp_path):
    shutil.copytree(Path(images.path[0]).parents[2], tmp_path/'xray')
    df = split_valid(scan_images(tmp_path/'xray'), valid_pct=.3)
    learn = learner(df)
    valid = predict(learn, df[df.split == 'valid'])
    folder = save_model(learn, tmp_path/'m')
    for o in df[df.split == 'valid'].path: os.remove(o)
    assert load_model(save_model(learn, tmp_path/'n'), small, 'cpu').about['table'] == load_model(folder, small, 'cpu').about['table']
    assert len(valid)

def test_nothing_random_is_drawn(images, tmp_path):
    learn = learner(images)
    def states(): return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    before = states()
    folder = save_model(learn, tmp_path/'m')
    load_model(folder, small, 'cpu').predict(images.head(3))
    assert states() == before

def test_the_learner_is_as_it_was(images, tmp_path):
    learn = learner(images)
    learn.model.train()
    before = {k: v.clone() for k,v in learn.model.state_dict().items()}
    save_model(learn, tmp_path/'m')
    assert learn.model.training and all(torch.equal(v, learn.model.state_dict()[k]) for k,v in before.items())

def test_no_pickle_is_read_or_written(images, tmp_path, monkeypatch):
    learn = learner(images)
    def never(*args, **kwargs): raise AssertionError('pickle')
    for o in ('save', 'load'): monkeypatch.setattr(torch, o, never)
    for o in ('load', 'loads', 'dump', 'dumps', 'Unpickler'): monkeypatch.setattr(pickle, o, never)
    load_model(save_model(learn, tmp_path/'m'), small, 'cpu')

# Images in memory

@pytest.fixture(scope='module')
def folder(images, tmp_path_factory):
    "A model with all that a folder may hold"
    learn, parts = learner(images.assign(age=range(len(images)), name='Doe')), {}
    for o in ('valid', 'test'): parts[o] = predict(learn, images[images.split == o].assign(sex='F', age=50, name='Doe'))
    return save_model(learn, tmp_path_factory.mktemp('saved')/'model', **parts, threshold='youden', seed=1, start='random', licence='none')

@pytest.fixture(scope='module')
def model(folder): return load_model(folder, small, 'cpu')

def test_whatever_an_image_comes_as(model, images):
    path = images.path[0]
    with Image.open(path) as im: forms = [im.copy(), np.asarray(im), im.convert('RGB'), np.asarray(im.convert('RGB')), im.convert('LA')]
    files = [path, Path(path), [path], pd.Series([path]), Path(path).read_bytes(), images.head(1)]
    found = [probs(model.predict(o))[0] for o in (*files, *forms)]
    for o in found: np.testing.assert_allclose(o, found[0], atol=.02) # in memory a JPEG is decoded in full, from a file at a half
    for o in found[1:6]: np.testing.assert_array_equal(o, found[0])

no_images = [(b'junk', "can't be read"), (b'', "can't be read"), (3, 'found 3'), (None, 'found None'), ([[1]], 'found [1]'),
    (np.zeros((2, 2, 7), 'u1'), '(2, 2, 7)'), (np.zeros(4), '(4,)'), ([], 'at least one usable image'), ('nowhere.png', "can't be read")]

@pytest.mark.parametrize('wrong,says', no_images)
def test_what_is_no_image(model, wrong, says):
    with pytest.raises(ValueError, match='expected') as e: model.predict(wrong)
    assert says in str(e.value) and '\n' not in str(e.value)
    assert list(model._held) == ['\0']

def test_each_thread_gets_its_own_image(model):
    ims, found = [Image.new('L', (50, 50), v) for v in (0, 80, 160, 255)], {}
    want = [probs(model.predict(o)).tolist() for o in ims]
    def work(i): found[i] = [probs(model.predict(ims[i])).tolist() for _ in range(3)]
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for o in threads: o.start()
    for o in threads: o.join()
    assert all(found[i] == [want[i]]*3 for i in range(4)) and len({str(o) for o in want}) > 1

def test_unlabelled_tables_and_odd_indices(model, images):
    df = images.drop(columns=['label', 'patient']).set_axis([7]*len(images))
    out = model.predict(df, temperature=True, threshold=True)
    np.testing.assert_array_equal(out.predicted == 'PNEUMONIA', out.prob_PNEUMONIA >= model.scaled_threshold)

def test_a_threshold_of_scaled_probabilities(folder, tmp_path, images):
    shutil.copytree(folder, tmp_path/'m')
    about = json.loads((tmp_path/'m/model.json').read_text())
    about['threshold'] |= dict(scaled=True, value=.5)
    about['temperature'] = dict(value=5., images=None)
    (tmp_path/'m/model.json').write_text(json.dumps(about))
    model = load_model(tmp_path/'m', small, 'cpu')
    out = model.predict(images, temperature=True, threshold=True)
    assert model.scaled_threshold == .5 and list(out.predicted == 'PNEUMONIA') == list(out.prob_PNEUMONIA >= .5)
    assert list(model.predict(images, threshold=True).predicted) == list(out.predicted)

# What is in the folder

def test_home_tells_no_names(folder, model):
    text = (folder/'home.csv').read_text()
    assert list(model.home) == ['split', 'label', 'patient', 'sex', 'age', 'predicted', 'prob_NORMAL', 'prob_PNEUMONIA']
    assert 'Doe' not in text and '/' not in text and set(model.home.split) == {'valid', 'test'}

def test_no_file_knows_a_path_or_a_patient(folder, images):
    texts = {o.name: o.read_text() for o in folder.iterdir() if o.name != 'model.safetensors'}
    stems = {Path(o).stem for o in images.path} | {o for o in images.patient if len(o) > 3}
    assert not [(k, o) for k,t in texts.items() for o in stems if o in t]
    assert not [k for k,t in texts.items() if str(Path(images.path[0]).parent) in t]

def test_the_card_is_a_card(folder):
    text = (folder/'README.md').read_text()
    assert text.startswith('---\n') and 'Not for clinical use' in text

# Folders that were tampered with

def edit(**new):
    "Change entries of model.json"
    def change(folder):
        about = json.loads((folder/'model.json').read_text())
        (folder/'model.json').write_text(json.dumps({k: v for k,v in (about | new).items() if v is not KeyError}))
    return change

def write(name, data):
    def change(folder): (folder/name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return change

def remove(name): return lambda folder: (folder/name).unlink()

def link(name, to):
    def change(folder):
        (folder/name).unlink(missing_ok=True)
        (folder/name).symlink_to(to)
    return change

def directory(name):
    def change(folder):
        (folder/name).unlink(missing_ok=True)
        (folder/name).mkdir()
    return change

def weights(fn):
    "Change the arrays"
    def change(folder):
        state = load_file(folder/'model.safetensors')
        save_file(fn(state) or state, folder/'model.safetensors')
    return change

def put(key, fn):
    def change(state): state[key] = fn(state[key]).contiguous()
    return weights(change)

def sparse(folder):
    "A file of many GB that takes no place"
    with open(folder/'model.safetensors', 'wb') as f: f.truncate(9 * 10**9)

def home(fn):
    def change(folder): fn(pd.read_csv(folder/'home.csv')).to_csv(folder/'home.csv', index=False)
    return change

def pipe(folder):
    (folder/'README.md').unlink()
    os.mkfifo(folder/'README.md')

first, bn = '0.0.weight', '0.1.running_mean'
giant = (10**9).to_bytes(8, 'little') + b'{'
header = b'{"0.0.weight":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4000000000000]}}'
lying = len(header).to_bytes(8, 'little') + header
# chkstyle: ignore-node
tampered = {
    'no weights': (remove('model.safetensors'), 'no model.safetensors'),
    'no description': (remove('model.json'), 'no model.json'),
    'no card': (remove('README.md'), 'no README.md'),
    'no fingerprint': (remove('fingerprint.json'), 'no fingerprint.json'),
    'a pickle beside': (write('model.pkl', b''), "found 'model.pkl'"),
    'code beside': (write('__init__.py', ''), "found '__init__.py'"),
    'a folder beside': (directory('data'), "found 'data'"),
    'a hidden file': (write('.env', ''), "found '.env'"),
    'a link out': (link('README.md', '/etc/hostname'), 'found a link'),
    'a link that leads nowhere': (link('home.csv', 'gone'), 'found a link'),
    'a folder for weights': (directory('model.safetensors'), 'a plain file model.safetensors'),
    'a pipe': (pipe, 'a plain file README.md'),
    'a pickle for weights': (write('model.safetensors', pickle.dumps({'a': 1})), 'no safetensors'),
    'nothing for weights': (write('model.safetensors', b''), 'no safetensors'),
    'a giant file': (sparse, 'at most 8,000 MB'),
    'a giant header': (write('model.safetensors', giant), 'no safetensors'),
    'a header that lies': (write('model.safetensors', lying), 'no safetensors'),
    'no array': (weights(lambda s: {'x': torch.zeros(1)}), 'found nothing'),
    'an array more': (weights(lambda s: s | {'x': torch.zeros(1)}), '(x: nothing)'),
    'an array less': (weights(lambda s: {k: v for k,v in s.items() if k != bn}), f'({bn}: F32 8), found nothing'),
    'another shape': (put(first, lambda v: v[:4]), 'found F32 4'),
    'a transposed array': (put(first, lambda v: v.transpose(0, 1)), 'found F32 3'),
    'another type': (put(first, lambda v: v.half()), 'found F16'),
    'a weight that is no number': (put(first, lambda v: v*torch.nan), 'finite weights'),
    'an infinite weight': (put(bn, lambda v: v/0), 'finite weights'),
    'a newer format': (edit(format=2), 'install a newer'),
    'a format in words': (edit(format='one'), 'as format'),
    'format true': (edit(format=True), 'as format'),
    'format 0': (edit(format=0), 'as format'),
    'another library': (edit(library='x'), 'as library'),
    'no classes': (edit(classes=KeyError), 'as classes'),
    'one class': (edit(classes=['A']), 'as classes'),
    'classes twice': (edit(classes=['A', 'A']), 'as classes'),
    'many classes': (edit(classes=[*map(str, range(10**5))]), 'as classes'),
    'a class of a megabyte': (edit(classes=['A'*10**6, 'B']), 'as classes'),
    'classes as text': (edit(classes='AB'), 'as classes'),
    'other classes': (edit(classes=['A', 'B']), 'as prior'),
    'one class more': (edit(classes=['A', 'NORMAL', 'PNEUMONIA'], prior=dict(A=.2, NORMAL=.4, PNEUMONIA=.4)), 'F32 3 × 512'),
    'classes in another order': (edit(classes=['PNEUMONIA', 'NORMAL']), 'home.csv'),
    'a positive that is no class': (edit(positive='A'), 'as positive'),
    'a giant size': (edit(size=10**6, item_size=10**6), 'as size'),
    'a negative size': (edit(size=-1), 'as size'),
    'size in words': (edit(size='32'), 'as size'),
    'half a pixel': (edit(size=32.5), 'as size'),
    'size above item_size': (edit(size=65), 'item_size to be at least'),
    'no item_size': (edit(item_size=None), 'as item_size'),
    'a giant batch': (edit(bs=10**9), 'as bs'),
    'no batch': (edit(bs=0), 'as bs'),
    'another method': (edit(method='__class__'), 'as method'),
    'a method that is a list': (edit(method=[]), 'as method'),
    'two channels': (edit(channels=2), 'as channels'),
    'std 0': (edit(std=[0, 1, 1]), 'as std'),
    'mean of two': (edit(mean=[0, 1]), 'as mean'),
    'an arch that is none': (edit(arch='resnet17', arch_kind='torchvision'), 'expected'),
    'code as arch': (edit(arch='os:system'), 'own arch, os:system'),
    'another kind': (edit(arch_kind='pickle'), 'as arch_kind'),
    'a kind that is a dict': (edit(arch_kind={}), 'as arch_kind'),
    'a threshold above 1': (edit(threshold=dict(value=2, positive='NORMAL', scaled=False)), 'as threshold'),
    'a bare threshold': (edit(threshold=.5), 'as threshold'),
    'a threshold for no class': (edit(threshold=dict(value=.5, positive='A', scaled=False)), 'as positive'),
    'temperature 0': (edit(temperature=dict(value=0)), 'as temperature'),
    'a prior of 2': (edit(prior=dict(NORMAL=1., PNEUMONIA=1.)), 'as prior'),
    'a prior in words': (edit(prior=dict(NORMAL='1', PNEUMONIA=0)), 'as prior'),
    'a layer more': (edit(shift=True), 'log_prior'),
    'shift in words': (edit(shift='no'), 'as shift'),
    'versions as a list': (edit(versions=[1]), 'as versions'),
    'not JSON': (write('model.json', '{'), 'JSON in model.json'),
    'NaN': (write('model.json', '{"format": NaN}'), 'NaN is not JSON'),
    'a list': (write('model.json', '[]'), 'found a list'),
    'no UTF-8': (write('model.json', b'\xff\xfe{}'), 'JSON in model.json'),
    'a million brackets': (write('model.json', '['*10**6), 'JSON in model.json'),
    'endless digits': (write('model.json', '{"format": ' + '9'*10**5 + '}'), 'JSON in model.json'),
    'a giant description': (write('model.json', b' '*(2*10**7 + 1)), 'at most 20 MB'),
    'an empty fingerprint': (write('fingerprint.json', '{}'), 'fingerprint'),
    'a fingerprint that is none': (write('fingerprint.json', '"x"'), 'fingerprint.json'),
    'an empty home': (write('home.csv', ''), 'home.csv'),
    'a binary home': (write('home.csv', bytes(range(256))), 'home.csv'),
    'a home with paths': (home(lambda t: t.assign(path='/x')), "['path']"),
    'training images at home': (home(lambda t: t.assign(split='train')), 'the splits valid and test'),
    'labels of no class': (home(lambda t: t.assign(label='A')), 'each label'),
    'probabilities above 1': (home(lambda t: t.assign(prob_NORMAL=7)), 'probabilities'),
    'a home without images': (home(lambda t: t.head(0)), 'expected')}

@pytest.mark.parametrize('name', tampered)
def test_a_folder_that_was_tampered_with(folder, tmp_path, name):
    change, says = tampered[name]
    shutil.copytree(folder, tmp_path/'m')
    change(tmp_path/'m')
    with pytest.raises(ValueError, match='^expected ') as e: load_model(tmp_path/'m', small, 'cpu')
    assert says in str(e.value) and '\n' not in str(e.value) and len(str(e.value)) < 700

def test_without_changes_it_loads(folder, tmp_path):
    shutil.copytree(folder, tmp_path/'m')
    (tmp_path/'m/.gitattributes').write_text('')
    assert load_model(tmp_path/'m', small, 'cpu').classes == ['NORMAL', 'PNEUMONIA']

def test_a_function_is_taken_from_the_caller_only(folder):
    for arch,says in ((None, 'found none'), (other, ':other'), ('resnet18', 'found resnet18'), (vectors, ':vectors')):
        with pytest.raises(ValueError, match='expected') as e: load_model(folder, arch)
        assert says in str(e.value)

def test_loading_imports_nothing_that_a_folder_names(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path/'m')
    (tmp_path/'evil.py').write_text('raise SystemExit(99)')
    edit(arch='evil:run')(tmp_path/'m')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match='expected the function evil:run'): load_model(tmp_path/'m')
    with pytest.raises(SystemExit): __import__('evil') # it could have been imported

@pytest.mark.parametrize('where,says', [('nowhere', 'found nothing'), ('file', 'found a file')])
def test_no_folder(tmp_path, where, says):
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError, match=says): load_model(tmp_path/where)

# Saving

def test_only_a_model_is_replaced(images, tmp_path):
    learn = learner(images)
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine/thesis.txt').write_text('work')
    for o in (False, True):
        with pytest.raises(ValueError): save_model(learn, tmp_path/'mine', overwrite=o)
    assert (tmp_path/'mine/thesis.txt').read_text() == 'work'
    save_model(learn, tmp_path/'m', seed=1)
    save_model(learn, tmp_path/'m', seed=2, overwrite=True)
    assert load_model(tmp_path/'m', small, 'cpu').about['seed'] == 2
    assert sorted(o.name for o in tmp_path.iterdir()) == ['m', 'mine']

def test_what_would_not_come_back_is_not_saved(images, tmp_path):
    learn = learner(images)
    learn.model[1] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(ValueError, match='that its arch builds again'): save_model(learn, tmp_path/'m')
    learn = learner(images)
    learn.dls.valid.after_batch.fs[-1].mean = learn.dls.valid.after_batch.fs[-1].mean + 1
    save_model(learn, tmp_path/'other_mean')
    learn.model.append(nn.Tanh())
    with pytest.raises(ValueError, match='differ by'): save_model(learn, tmp_path/'m')
    assert not (tmp_path/'m').exists() and not list(tmp_path.glob('.*'))

def test_predictions_of_another_split_or_model(images, coloured, tmp_path):
    learn = learner(images)
    valid = predict(learn, images[images.split == 'valid'])
    for wrong,says in ((dict(valid=valid.assign(split='test')), 'validation images'), (dict(test=valid), 'split test'),
        (dict(valid=valid.rename(columns=dict(prob_NORMAL='prob_A')).assign(label='A', predicted='A')), 'NORMAL'), (dict(valid=3), 'int')):
        with pytest.raises(ValueError, match='expected') as e: save_model(learn, tmp_path/'m', **wrong)
        assert says in str(e.value)
    assert not (tmp_path/'m').exists()

def test_the_files_are_those_that_are_documented(folder): assert {o.name for o in folder.iterdir()} <= {*BUNDLE_FILES}

# ONNX

def page_code(*names):
    "The cells of the page 67 that import NumPy and Pillow or define `names`"
    cells = json.loads((Path(__file__).parents[1]/'nbs/67_onnx_export.ipynb').read_text(encoding='utf-8'))['cells']
    texts = [''.join(c['source']) for c in cells if c['cell_type'] == 'code']
    return '\n'.join(o for o in texts if o.startswith(('import json, numpy', *(f'def {n}(' for n in names))))

@pytest.fixture(scope='module')
def exported(images, tmp_path_factory):
    pytest.importorskip('onnxscript')
    from pneumo_imbalance.onnx_export import export_onnx
    return export_onnx(save_model(learner(images), tmp_path_factory.mktemp('onnx')/'m'), small)

def without_torch(file, rows):
    "Probabilities by the lines of the page, in a process of its own"
    code = page_code('squeezed', 'prepared') + '''
import sys
session = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(session.get_modelmeta().custom_metadata_map['model.json'])
print(json.dumps(session.run(None, {'images': np.stack([prepared(o, **about) for o in sys.argv[2:]])})[0].tolist()))
assert not {'torch', 'fastai', 'pneumo_imbalance'} & {*sys.modules}'''
    out = subprocess.run([sys.executable, '-c', code, str(file), *rows], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return json.loads(out.stdout)

def test_the_lines_of_the_page_need_no_torch(exported, images):
    rows = images.path[images.split == 'valid'].tolist()
    np.testing.assert_allclose(without_torch(exported, rows), probs(load_model(exported.parent, small, 'cpu').predict(rows)), atol=1e-4)

@pytest.mark.parametrize('colour', [False, True])
@pytest.mark.parametrize('item_size,size', [(64, 64), (64, 63), (64, 40), (65, 32), (70, 17), (64, 16), (150, 33), (33, 1)])
def test_the_lines_of_the_page_prepare_images_as_the_model_does(exported, images, coloured, item_size, size, colour):
    about, space = json.loads((exported.parent/'model.json').read_text()) | dict(item_size=item_size, size=size), {}
    about |= dict(channels=3 if colour else 1)
    exec(page_code('squeezed', 'prepared'), space)
    rows = (coloured if colour else images).head(3)
    dl = Model(exported.parent, about, small(), 'cpu').learn.dls.test_dl(rows)
    want = dl.one_batch()[0].numpy()
    got = np.stack([space['prepared'](o, **about) for o in rows.path])
    np.testing.assert_allclose(np.broadcast_to(got, want.shape), want, atol=1e-4)

def test_the_file_knows_no_machine(exported):
    data = exported.read_bytes()
    assert not [o for o in (b'stack_trace', b'site-packages', b'.py', str(Path.home()).encode() + b'/') if o in data]
