"Model cards that the hub can read, whatever the classes are called, and calls that the hub's library knows."
import inspect
import pandas as pd, pytest
from hypothesis import given, strategies as st
from pneumo_imbalance.bundle import BUNDLE_FILES
from pneumo_imbalance.card import model_card
from pneumo_imbalance.claim import CARD_FIELDS, CLAIM_2024
from pneumo_imbalance.hub import fetch_model, push_model
from pneumo_imbalance.metrics import simulate_predictions

hub = pytest.importorskip('huggingface_hub')

def predictions(classes, splits=('valid', 'test')):
    preds = pd.concat([simulate_predictions({c: 12 for c in classes}, split=o, seed=i) for i,o in enumerate(splits)])
    return preds.assign(sex=['F' if i//2 % 2 else 'M' for i in range(len(preds))]).drop(columns='path')

def about(classes, **more):
    return dict(arch='resnet18', arch_kind='torchvision', classes=list(classes), size=224, positive=classes[-1], **more)

def print_of(classes):
    counts = {c: dict(images=9, patients=5) for c in classes}
    return dict(counts=counts, images=9*len(classes), patients=18, columns=None, notes=[])

def card(classes, stated=None, **more): return model_card(about(classes, **more), print_of(classes), predictions(classes), stated, n_boot=3)

evil = ['<script>alert(1)</script>', '![x](http://x.org/x.png)', '[x](javascript:alert(1))', 'a | b', '`a`', '"\n---\nlicense: mit', '# a',
    '1. a', '- a', '&lt;b&gt;', '<b onclick=x>', 'a: {b', '\u202eabc', 'a\0b', '$x$', '~~a~~', '*a* _b_', '\\', "'", '😀', 'x'*500]

def read(text):
    "A card as the hub's library reads it: its head, and the HTML of its body"
    found = hub.ModelCard(text)
    return found.data, pytest.importorskip('markdown_it').MarkdownIt('gfm-like', dict(linkify=False)).render(found.text)

@pytest.mark.parametrize('name', evil)
def test_a_class_may_be_called_anything(name):
    stated, threshold = dict(licence=name, data=name, name=name, labels=name), dict(value=.4, positive='PNEUMONIA', how=name)
    data, html = read(card([name, 'PNEUMONIA'], stated, threshold=threshold))
    assert data.license in ('other', 'unknown') and data.library_name == 'pneumo_imbalance'
    assert not [o for o in ('<script', '<img', '<a ', '<b', '<del', '<em>a') if o in html.replace('<blockquote', '')]
    assert html.count('<h2') == 11 and html.count('<h1') == 1 and html.count('<table') == 7

@given(st.text(min_size=1, max_size=30).filter(str.strip), st.text(min_size=1, max_size=30).filter(str.strip))
def test_any_text_stays_a_text(name, licence):
    text = model_card(about([name, 'B' + name]), print_of([name]), stated=dict(licence=licence, data=name, name=name))
    data, html = read(text)
    assert html.count('<h2') == 11 and '<img' not in html and '<a ' not in html and data.pipeline_tag == 'image-classification'

def test_scores_stand_in_the_head():
    data, _ = read(card(['NORMAL', 'PNEUMONIA'], dict(licence='Apache-2.0', name='My model')))
    results = {o.metric_type: o.metric_value for o in data.eval_results}
    assert data.license == 'apache-2.0' and data.model_name == 'My model' and 0 <= results['roc_auc'] <= 1 and len(results) == 5

def test_several_classes():
    text = card(['A', 'B', 'C'], temperature=dict(value=1.2)).replace('resnet18', '')
    assert 'means over 3 classes' not in text # a positive class is named
    many = model_card(about(['A', 'B', 'C']) | dict(positive=None), print_of('ABC'), predictions('ABC'), n_boot=3)
    assert 'means over 3 classes' in many and read(many)[0].eval_results

def test_what_nobody_knows_is_said():
    text = model_card(about(['A', 'B']), print_of('AB'))
    assert text.count('Not stated:') >= 4 and text.count('**open**') > 35 and 'nothing here says how it does on patients' in text
    whole = model_card(about(['A', 'B']), print_of('AB'), stated={k: f'We say {k}.' for k in CARD_FIELDS})
    assert 'Not stated:' not in whole and all(f'We say {f}.' in whole for _,f in CLAIM_2024.values() if f != 'auto')

def test_only_validation_images_are_called_too_good():
    text = model_card(about(['A', 'B']), print_of('AB'), predictions('AB', ['valid']), n_boot=3)
    assert 'the scores are too good' in text and '| 32 | test on images of the same source | **open** |' in text

def test_a_table_of_one_class_is_no_fault():
    home = predictions('AB')
    assert '## Scores' in model_card(about(['A', 'B']), print_of('AB'), home[home.label == 'A'], n_boot=3)

# The hub's library takes these calls

class Spy:
    def __init__(self): self.calls = []
    def note(self, f, *args, **kwargs):
        inspect.signature(f).bind(*([None] if 'self' in inspect.signature(f).parameters else []), *args, **kwargs)
        self.calls.append((f.__name__, args, kwargs))

def test_calls_fit_the_installed_library(tmp_path, monkeypatch):
    spy, api = Spy(), hub.HfApi
    folder = tmp_path/'model'
    folder.mkdir()
    for o in BUNDLE_FILES: (folder/o).write_text('{}')
    files = [type('F', (), dict(rfilename=o, size=2))() for o in [*BUNDLE_FILES, 'evil.bin', '.gitattributes']]
    info = type('I', (), dict(private=True, sha='a'*40, siblings=files))()
    real = {k: getattr(api, k) for k in ('create_repo', 'model_info', 'upload_folder')}
    def said(k, value): return lambda self, *a, **kw: spy.note(real[k], *a, **kw) or value
    answers = dict(create_repo=hub.RepoUrl('https://huggingface.co/a/b'), model_info=info, upload_folder=None)
    for k,value in answers.items(): monkeypatch.setattr(api, k, said(k, value))
    load = hub.snapshot_download
    def download(*args, local_dir, allow_patterns, **kwargs):
        spy.note(load, *args, local_dir=local_dir, allow_patterns=allow_patterns, **kwargs)
        for o in allow_patterns: (local_dir/o).write_text('{}')
    monkeypatch.setattr(hub, 'snapshot_download', download)
    monkeypatch.setenv('PNEUMO_CACHE', str(tmp_path/'cache'))
    assert push_model(folder, 'a/b') == 'https://huggingface.co/a/b'
    assert [o[0] for o in spy.calls] == ['create_repo', 'model_info', 'upload_folder'] and spy.calls[0][2]['private'] is True
    found = fetch_model('a/b')
    assert sorted(o.name for o in found.iterdir()) == sorted(BUNDLE_FILES) and found.is_relative_to(tmp_path)
    assert all(not o.is_symlink() for o in found.iterdir())

def test_no_network_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv('PNEUMO_CACHE', str(tmp_path))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(OSError, match='no connection.*check the network') as e: fetch_model('a/b')
    assert '\n' not in str(e.value)
