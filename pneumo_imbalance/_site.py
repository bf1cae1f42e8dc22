"What the site shows otherwise than nbdev alone: signatures as tables, checks folded away, nothing loaded from elsewhere. Not for users."
import ast, inspect
from fastcore.docments import docments
from nbdev.showdoc import BasicMarkdownRenderer

# Signatures

def _name(o): return getattr(o, '__name__', None) or str(o).replace('typing.', '')

def _default(p):
    "A default as one would type it"
    o = p.get('default', inspect._empty)
    return '' if o is inspect._empty else f'`{_name(o) if inspect.isroutine(o) or inspect.isclass(o) else repr(o)}`'

def _cell(text): return str(text).replace('|', r'\|').replace('\n', '<br>')

def _meaning(p): return '' if p.get('docment') in (None, inspect._empty) else p['docment']

def _rows(params):
    "A row for each parameter: name, default, what it means; those without a word of their own come by `delegates` and share a row"
    yield from ((f'`{k}`', _default(p), _meaning(p)) for k,p in params.items() if _meaning(p))
    rest = [f'`{k}`' for k,p in params.items() if not _meaning(p)]
    if rest: yield '…', '', 'Passed on: ' + ', '.join(rest)

def _returns(p):
    "What comes back: its type, if it is said, and its meaning"
    said = [f'`{_name(p["anno"])}`'] if p.get('anno', inspect._empty) not in (inspect._empty, None) else []
    return said + [o for o in [_meaning(p)] if o]

def signature_table(
    sym): # Function, method or class
    "Parameters, their defaults and what they mean as a Markdown table, with what is returned in its last row; '' where nothing is taken"
    try: dm = docments(sym, full=True)
    except (TypeError, ValueError): return ''
    back = _returns(dm.pop('return', {}))
    rows = [*_rows({k: v for k,v in dm.items() if k != 'self'}), *([('**Returns**', '', ': '.join(back))] if back else [])]
    if not rows: return ''
    return '\n'.join('| ' + ' | '.join(map(_cell, o)) + ' |' for o in [('Parameter', 'Default', 'Meaning'), ('---',)*3, *rows])

class SignatureTable(BasicMarkdownRenderer):
    "Renders a symbol: heading and link to its source as nbdev does, its sentence, a table of its parameters"
    def _repr_markdown_(self):
        head = super()._repr_markdown_().partition('```python')[0]
        return head + '\n\n'.join(o for o in (self.docs, signature_table(self.sym)) if o)

# Cells

def _is_check(node):
    "Does a statement do nothing but test?"
    if isinstance(node, ast.For): return all(map(_is_check, node.body))
    if isinstance(node, ast.With): return any('expect_fail' in ast.unparse(o.context_expr) for o in node.items)
    called = ast.unparse(node.value.func) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else ''
    return isinstance(node, ast.Assert) or called.startswith('test_')

def fold_checks(cell):
    "Folds a cell of a module's page that holds nothing but tests and shows nothing"
    if cell.cell_type != 'code' or not cell.source or cell.get('outputs'): return
    try: body = ast.parse(cell.source).body
    except SyntaxError: return
    if body and all(map(_is_check, body)): cell.source = f'#| code-fold: true\n#| code-summary: "Checks"\n{cell.source}'

def raw_tables(cell):
    "Gives HTML outputs, tables that is, as raw blocks: for an output of type text/html Quarto loads RequireJS and jQuery from elsewhere"
    for o in cell.get('outputs', []):
        html = o.get('data', {}).pop('text/html', None)
        if html: o['data']['text/markdown'] = '```{=html}\n' + ''.join(html).strip() + '\n```\n'
