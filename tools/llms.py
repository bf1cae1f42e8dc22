"""Makes llms.txt and llms-ctx.txt, the site for language models, out of the notebooks and the sidebar: `python tools/llms.py FOLDER`.

The format is that of https://llmstxt.org: what the project is, then lists of pages with a line on each. llms-ctx.txt holds the first list's
pages whole, in the form that `llms_txt2ctx` writes. Needs no network and no Quarto."""
import json, re, sys
from pathlib import Path
import yaml
from fastcore.xml import Doc, Project, ft, to_xml

root = Path(__file__).resolve().parents[1]
nbs = root/'nbs'
first = ['index.ipynb', 'guide.ipynb'] # the pages that stand in llms-ctx.txt too
_hide = re.compile(r'^#\|\s*(hide|include:\s*false)\s*$', re.M)
_no_source = re.compile(r'^#\|\s*(hide_input|echo:\s*false)\s*$', re.M)
_alt = re.compile(r'^#\|\s*fig-alt:\s*"?(.*?)"?\s*$', re.M)
_directive = re.compile(r'^#\|.*\n?', re.M)
_badge = re.compile(r'^\[!\[[^\n]*\n+', re.M)
_link = re.compile(r'\]\((\w[\w.-]*)\.ipynb(#[\w-]+)?\)')
_facts = """Python library for imbalanced medical images, built on fastai and nbdev. Not for clinical use. Remember when using it:

- `from pneumo_imbalance.all import *` brings every public name.
- An image is one row of one DataFrame (path, split, label, patient, …). Functions take the table and return a new one; none takes indices.
- Split by patient first, look for leaks, then repeat training rows. Thresholds are chosen on validation images, never on test images."""

def settings(name): return yaml.safe_load((nbs/name).read_text(encoding='utf-8'))

def cells(name): return json.loads((nbs/name).read_text(encoding='utf-8'))['cells']

def head(
    name): # File name of a notebook in `nbs/`
    "Title and subtitle of a page."
    return re.match(r'# (.+)\n\n?> (.+)', ''.join(cells(name)[0]['source'])).groups()

def url(
    name): # File name of a notebook in `nbs/`
    "Where the page's Markdown lies: nbdev takes the number off a name, Quarto keeps Markdown where `keep-md` is on."
    html = re.sub(r'^\d+[a-zA-Z0-9]*_', '', Path(name).stem.lower()) + '.html'
    kept = settings('_quarto.yml')['format']['html'].get('keep-md')
    return f"{settings('nbdev.yml')['website']['site-url']}/{html}{'.md' if kept else ''}"

def pages(
    contents): # A list out of the sidebar
    "The notebooks that a part of the sidebar names, in order."
    for o in contents:
        if isinstance(o, str): yield o
        elif 'contents' in o: yield from pages(o['contents'])
        else: yield o['href']

def sections():
    "The sidebar as lists of pages under their headings: what to read first, the stories and tasks, and what may be left out."
    bar = settings('sidebar.yml')['website']['sidebar']['contents']
    parts = {o['section']: list(pages(o['contents'])) for o in bar if isinstance(o, dict) and 'section' in o}
    every, known = list(pages(bar)), [o for o in first if o in list(pages(bar))]
    modules = [o for o in every if o[0].isdigit()]
    named = {k: [o for o in v if o not in known + modules] for k,v in parts.items()}
    rest = [o for o in every if o not in known + modules + sum(named.values(), [])]
    return {k: v for k,v in {'Docs': known, **named, 'Optional': modules + rest}.items() if v}

def line(name): return '- [{}]({}): {}'.format(head(name)[0], url(name), head(name)[1])

def index():
    "The text of llms.txt."
    lists = ['\n'.join([f'## {k}\n', *map(line, v)]) for k,v in sections().items()]
    return '\n\n'.join([f'# {head(first[0])[0]}', f'> {head(first[0])[1]}', _facts, *lists]) + '\n'

def fenced(text, kind=''): return f'```{kind}\n{text}\n```' if text else ''

def said(output, alt):
    "An output of a cell as text; of a picture its description."
    data = output.get('data', {})
    if any(o.startswith('image/') for o in data): return f'[picture: {alt[1]}]' if alt else ''
    if 'text/markdown' in data: return ''.join(data['text/markdown'])
    return fenced(''.join(output.get('text') or data.get('text/plain') or '').rstrip())

def told(cell):
    "One cell as Markdown, as a reader of the page sees it: prose, code, outputs as text."
    source = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown': return _link.sub(lambda m: f"]({url(m[1] + '.ipynb')}{m[2] or ''})", _badge.sub('', source))
    if cell['cell_type'] != 'code' or _hide.search(source): return ''
    code = '' if _no_source.search(source) else _directive.sub('', source).strip()
    parts = fenced(code, 'python'), *(said(o, _alt.search(source)) for o in cell['outputs'])
    return '\n\n'.join(o for o in parts if o)

def text(
    name): # File name of a notebook in `nbs/`
    "A page as Markdown, pictures and hidden cells left out."
    return '\n\n'.join(o for o in map(told, cells(name)) if o)

def context():
    "The text of llms-ctx.txt: the project with its first pages whole."
    docs = [Doc('\n' + text(o) + '\n', title=head(o)[0], desc=head(o)[1]) for o in sections()['Docs']]
    title, summary = head(first[0])
    return to_xml(Project(title=title, summary=summary)(_facts, ft('docs', *docs)), do_escape=False)

def write(
    dest): # Folder that receives llms.txt and llms-ctx.txt: the built site
    "Writes both files."
    dest.mkdir(parents=True, exist_ok=True)
    for name,made in {'llms.txt': index(), 'llms-ctx.txt': context()}.items(): (dest/name).write_text(made, encoding='utf-8')

if __name__ == '__main__':
    if len(sys.argv) != 2: sys.exit('usage: python tools/llms.py FOLDER (the built site, as in _docs)')
    write(Path(sys.argv[1]))
