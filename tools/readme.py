"Makes README.md and CONTRIBUTING.md from their notebooks, without Quarto: `python tools/readme.py [FOLDER]` (default: the repository)."
import re, shutil, sys
from base64 import b64decode
from pathlib import Path
from posixpath import normpath
import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parents[1]
pages = dict(index='README.md', contributing='CONTRIBUTING.md')
_hide = re.compile(r'^#\|\s*(hide|include:\s*false)\s*$', re.M)
_no_source = re.compile(r'^#\|\s*(hide_input|echo:\s*false)\s*$', re.M)
_alt = re.compile(r'^#\|\s*fig-alt:\s*"?(.*?)"?\s*$', re.M)
_directive = re.compile(r'^#\|.*\n?', re.M)
_link = re.compile(r'(\]\(|src=")(?!https?:|mailto:|#|/)([^)\s"]+)')
_style = re.compile(r'<style.*?</style>\s*', re.S)

def take_pictures(
    cell, # Code cell; each PNG among its outputs becomes a Markdown link
    stem, # Name of the notebook without suffix: the pictures go to `{stem}_files`
    pictures): # dict of file name → bytes; the cell's pictures are added
    "Moves the pictures of `cell` into files; a directive `#| fig-alt: …` becomes their description."
    alt = _alt.search(cell.source)
    for data in (o.data for o in cell.outputs if 'data' in o):
        if 'text/html' in data: data['text/html'] = _style.sub('', data['text/html'])
        if 'image/png' in data:
            name = f'{stem}_files/picture-{len(pictures)+1}.png'
            pictures[name] = b64decode(data['image/png'])
            data.clear()
            data['text/markdown'] = f'![{alt[1] if alt else "picture"}]({name})'

def prepare_code(cell, stem, pictures):
    "Turns a code cell into what a reader sees: no directives, no picture data, no source where the cell says so."
    take_pictures(cell, stem, pictures)
    if _no_source.search(cell.source): cell.metadata.transient = dict(remove_source=True)
    cell.source = _directive.sub('', cell.source).strip()

def from_root(text):
    "`text` with its relative links leading from the repository's root instead of from `nbs/`."
    return _link.sub(lambda m: m[1] + normpath('nbs/' + m[2]), text)

def make_page(
    stem): # Name of a notebook in `nbs/` without suffix
    "The Markdown of one notebook and its pictures, a dict of file name → bytes."
    nb = nbformat.read(root/f'nbs/{stem}.ipynb', 4)
    nb.metadata.language_info = dict(name='python')
    nb.cells = [c for c in nb.cells if c.cell_type != 'raw' and not _hide.search(c.source)]
    pictures = {}
    for c in nb.cells:
        if c.cell_type == 'code': prepare_code(c, stem, pictures)
        else: c.source = from_root(c.source)
    nb.cells = [c for c in nb.cells if c.source or c.get('outputs')]
    body = re.sub(r'\n{3,}', '\n\n', MarkdownExporter().from_notebook_node(nb)[0]).strip()
    return f'<!-- Made from nbs/{stem}.ipynb by tools/readme.py: edit the notebook. -->\n\n{body}\n', pictures

def write_pages(
    dest): # Folder that receives README.md, CONTRIBUTING.md and their pictures
    "Writes every page and its pictures below `dest`; pictures of an older page go."
    for stem,page in pages.items():
        text, pictures = make_page(stem)
        (dest/page).write_text(text, encoding='utf-8')
        shutil.rmtree(dest/f'{stem}_files', ignore_errors=True)
        for name,png in pictures.items():
            (dest/name).parent.mkdir(exist_ok=True)
            (dest/name).write_bytes(png)

if __name__ == '__main__': write_pages(Path(sys.argv[1]) if len(sys.argv) > 1 else root)
