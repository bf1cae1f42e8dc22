"What nbdev makes of the notebooks before Quarto renders them, and what the site loads: checked without Quarto."
import importlib, json, re
from functools import cache
from pathlib import Path
import pytest, yaml
from nbdev.processors import FilterDefaults, exec_show_docs
from fastcore.nbio import read_nb
from nbdev.process import NBProcessor
from pneumo_imbalance import _site

root = Path(__file__).resolve().parents[1]
notebooks = sorted((root/'nbs').glob('[!._]*.ipynb'))
stories = [o for o in notebooks if not o.name[0].isdigit()]
modules = [o for o in notebooks if o.name[0].isdigit()]
ours = 'github.com/pneumo-imbalance', 'pneumo-imbalance.github.io', 'colab.research.google.com'

def no(bad): assert not bad, '\n' + '\n'.join(bad)

@cache
def processed(nb):
    "The cells of a page as Quarto gets them; the modules' own code, which only signatures need, is not run"
    chain = FilterDefaults()
    procs = [o for o in chain.procs() if o is not exec_show_docs]
    work = NBProcessor(nb=read_nb(nb), procs=procs, rm_directives='quarto')
    work.process()
    return [dict(kind=c.cell_type, source=c.source, outputs=c.get('outputs', [])) for c in work.nb.cells if c.get('source') is not None]

def plain(text):
    "Words alone: no links, marks or line ends"
    return ' '.join(re.sub(r'\]\([^)]*\)|[`*_\[\]!]', ' ', text).split())

def prose(cells): return plain('\n'.join(c['source'] for c in cells if c['kind'] == 'markdown'))

def introduction(nb):
    "The sentences of the second cell"
    text = ''.join(json.loads(nb.read_text(encoding='utf-8'))['cells'][1]['source'])
    return [o for o in re.split(r'(?<=[.?!:])\s+', plain(text)) if o]

@pytest.mark.parametrize('nb', notebooks, ids=lambda o: o.stem)
def test_the_introduction_reaches_the_page(nb):
    text = prose(processed(nb))
    no([o for o in introduction(nb) if o not in text])

def test_index_and_readme_say_the_same():
    readme = plain((root/'README.md').read_text(encoding='utf-8'))
    said = [o for c in processed(root/'nbs/index.ipynb') if c['kind'] == 'markdown' and not c['source'].startswith('<!--')
        for o in re.split(r'(?<=[.?!:])\s+', plain(c['source'])) if o]
    no([o for o in said if o not in readme])

def test_no_link_inside_a_link():
    "nbdev links every public name between backticks; inside a link of ours that makes a raw address on the page"
    nested = re.compile(r'\[[^\]\n]*\[`[^\]\n]*`\]\([^)]*\)[^\]\n]*\]\([^)]*\)')
    no([f'{nb.name}: {o}' for nb in notebooks for c in processed(nb) if c['kind'] == 'markdown' for o in nested.findall(c['source'])])

# Cells

def test_checks_are_folded_and_examples_stay_open():
    made = [(c['source'], c) for nb in modules for c in processed(nb) if c['kind'] == 'code']
    folded = [s for s,_ in made if 'code-fold: true' in s]
    assert folded and all('test_' in o or 'expect_fail' in o or 'assert' in o for o in folded)
    no([s for s,c in made if 'code-fold: true' in s and c['outputs']])

def test_no_page_makes_quarto_load_scripts():
    outputs = [(nb, c, o) for nb in notebooks for c in processed(nb) for o in c['outputs']]
    no([f'{nb.name}: {c["source"][:60]}' for nb,c,o in outputs if 'text/html' in o.get('data', {})])

def test_signatures_are_tables():
    from pneumo_imbalance.split import split_valid
    table = _site.SignatureTable(split_valid)._repr_markdown_()
    assert '### split_valid' in table and '| `valid_pct` | `0.2` | Share' in table and '| **Returns** |' in table
    assert '```' not in table and '__main__' not in table and 'NoneType' not in table

def constants():
    "Public names that are neither functions nor classes"
    found = [importlib.import_module(f'pneumo_imbalance.{nb.stem[3:]}') for nb in modules]
    return {o for module in found for o in module.__all__ if not callable(getattr(module, o))}

def test_every_public_constant_is_explained():
    texts = '\n'.join(c['source'] for nb in modules for c in processed(nb) if c['kind'] == 'markdown')
    no([o for o in sorted(constants()) if f'`{o}`' not in texts])

# The site's own files

def settings(name): return yaml.safe_load((root/'nbs'/name).read_text(encoding='utf-8'))

def listed(contents):
    "The pages that a sidebar names"
    for o in contents:
        if isinstance(o, str): yield o
        elif 'contents' in o: yield from listed(o['contents'])
        else: yield o['href']

def test_sidebar_lists_every_page_once():
    pages = list(listed(settings('sidebar.yml')['website']['sidebar']['contents']))
    assert sorted(pages) == sorted(o.name for o in notebooks) and len(set(pages)) == len(pages)

def test_links_lead_to_the_repository():
    site = settings('_quarto.yml')['website']
    assert site['repo-subdir'] == 'nbs' and 'edit' in site['repo-actions']
    assert (root/'nbs'/site['favicon']).exists() and (root/'CITATION.cff').exists()

def test_nothing_is_loaded_from_elsewhere():
    html = settings('_quarto.yml')['format']['html']
    assert html['html-math-method'] == 'mathml' and all('site.scss' in o for o in html['theme'].values())
    assert '$web-font-path: false' in (root/'nbs/site.scss').read_text()
    loads = re.compile(r'<(?:script|link|iframe)\b[^>]*|<img\b[^>]*\bsrc="?https?:[^>]*|!\[[^]]*\]\(https?:[^)]*|@import[^;]*')
    texts = {f.name: f.read_text(encoding='utf-8') for f in [*(root/'nbs').glob('*.yml'), *(root/'nbs').glob('*.scss')]}
    texts |= {nb.name: '\n'.join(c['source'] for c in processed(nb) if c['kind'] == 'markdown') for nb in notebooks}
    no([f'{name}: {m[0]}' for name,text in texts.items() for m in loads.finditer(text) if not any(o in m[0] for o in ours)])
