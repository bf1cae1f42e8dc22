"Hostile and odd image files, made from one phantom, each with the start of its problem. `python tests/zoo.py FOLDER` writes them."
import io, struct, sys, zlib
from pathlib import Path
import numpy as np
from PIL import Image, features
from pneumo_imbalance.phantom import phantom_image

pixels = phantom_image(1, size=128)
gray = Image.fromarray(pixels)
colour = Image.merge('RGB', [gray, gray.point(lambda o: 255 - o), gray])
wide = Image.fromarray(pixels.astype('u2')*257)
tall = gray.crop((0, 0, 96, 128))
rng = np.random.default_rng(0)

def saved(im, form, **kwargs):
    "The bytes of a picture's file"
    im.save(f := io.BytesIO(), form, **kwargs)
    return f.getvalue()

def many(im, form, n=3, **kwargs): return saved(im, form, save_all=True, append_images=[im.rotate(90*i) for i in range(1, n)], **kwargs)

jpeg, several, rgb = saved(gray, 'JPEG', quality=95), saved(gray, 'JPEG', progressive=True), saved(colour, 'JPEG')
frame, codes, scan = (jpeg.index(bytes([0xff, o])) for o in (0xc0, 0xc4, 0xda))
after = scan + 2 + int.from_bytes(jpeg[scan+2:scan+4])
end = b'\xff\xd9'

# JPEG

def part(kind, data): return bytes([0xff, kind]) + (len(data) + 2).to_bytes(2) + data

def noted(note, data=jpeg): return data[:2] + note + data[2:]

def tags(entries, order='<'):
    "A directory of tags (tag, kind, count, value), as EXIF and TIFF have it"
    mark = b'II*\0' if order == '<' else b'MM\0*'
    return mark + struct.pack(order + 'LH', 8, len(entries)) + b''.join(struct.pack(order + 'HHLL', *o) for o in entries) + bytes(4)

def exif(entries): return part(0xe1, b'Exif\0\0' + tags(entries))

def text_resolution(orientation): return exif([(0x112, 3, 1, orientation), (0x11a, 2, 4, 0x636261), (0x128, 3, 1, 2)])

def scans(n):
    "A progressive JPEG of many scans: the last one again and again"
    last = several.rindex(b'\xff\xda')
    return several[:-2] + several[last:-2]*n + end

def framed(data, **fields):
    "A JPEG with other fields in its frame header: precision, height, width, components, sampling, kind"
    at, data = next(data.index(o) for o in (b'\xff\xc0', b'\xff\xc2') if o in data), bytearray(data)
    places = dict(kind=(1, 1), precision=(4, 1), height=(5, 2), width=(7, 2), components=(9, 1), sampling=(11, 1))
    for k,v in fields.items():
        i, n = places[k]
        data[at+i:at+i+n] = v.to_bytes(n)
    return bytes(data)

def cut_at_scan(n):
    "A progressive JPEG that ends after its first `n` scans, with an end mark"
    at = [i for i in range(len(several)) if several[i:i+2] == b'\xff\xda']
    return several[:at[n]] + end

# chkstyle: ignore-node
jpegs = {'gray': (jpeg, ''), 'colour': (rgb, ''), 'progressive': (several, ''),
    'progressive colour': (saved(colour, 'JPEG', progressive=True), ''), 'cmyk': (saved(gray.convert('CMYK'), 'JPEG', quality=95), ''),
    'restarts': (saved(gray, 'JPEG', restart_marker_blocks=4), ''), 'mpo': (many(gray, 'MPO', 2), ''),
    'notes': (noted(part(0xfe, b'a note')*1000), ''), 'megabytes of notes': (noted(part(0xed, bytes(65_000))*30), ''),
    'many notes': (noted(part(0xfe, b'')*100_000), 'too large'), 'junk between': (jpeg[:20] + b'junk'*200_000 + jpeg[20:], ''),
    'fill bytes': (noted(b'\xff'*1000), ''), 'junk behind': (jpeg + b'junk', ''), 'zeros behind': (jpeg + bytes(1000), ''),
    'two pictures': (jpeg + saved(gray.rotate(90), 'JPEG'), ''),
    'thumbnail': (noted(part(0xe1, b'Exif\0\0' + tags([]) + saved(gray.resize((32, 32)), 'JPEG'))), ''), 'empty': (b'', 'empty'),
    'mark': (jpeg[:2], 'not an image'), 'marks': (jpeg[:2] + end, 'unreadable'), 'start': (jpeg[:20], 'truncated'),
    'half': (jpeg[:len(jpeg)//2], 'truncated'), 'cut before scan': (jpeg[:scan], 'truncated'), 'no end mark': (jpeg[:-2], 'truncated'),
    'head alone': (jpeg[:scan] + end, 'unreadable'), 'no data': (jpeg[:after] + end, 'truncated'),
    'half, end mark': (jpeg[:len(jpeg)//2] + end, 'truncated'), 'nearly whole, end mark': (jpeg[:-66] + end, 'truncated'),
    'colour, end mark': (rgb[:-300] + end, 'truncated'), 'zeros below': (jpeg[:len(jpeg)//2] + bytes(len(jpeg)//2), 'truncated'),
    'zeros below, end mark': (jpeg[:len(jpeg)//2] + bytes(30) + end, 'truncated'),
    'restarts, end mark': (saved(gray, 'JPEG', restart_marker_blocks=4)[:1500] + end, 'truncated'),
    'progressive half': (several[:len(several)//2], 'truncated'),
    'progressive half, end mark': (several[:len(several)//2] + end, 'truncated'),
    'progressive short, end mark': (several[:-60] + end, 'truncated'),
    **{f'progressive {i} scans': (cut_at_scan(i), 'truncated') for i in range(1, 6)},
    'cut inside': (jpeg[:scan+80] + jpeg[scan:], 'unreadable'), 'five thousand scans': (scans(5000), 'too large'),
    'last scan again': (scans(80), ('', 'truncated')),
    'scan before frame': (jpeg[:frame] + jpeg[scan:after] + jpeg[frame:], 'unreadable'),
    'two frames': (jpeg[:scan] + jpeg[frame:codes] + jpeg[scan:], 'unreadable'), 'no tables': (jpeg[:2] + jpeg[frame:], 'unreadable'),
    'no codes': (jpeg[:codes] + jpeg[scan:], ('', 'unreadable')),
    'bad codes': (jpeg[:codes+5] + b'\xff'*16 + jpeg[codes+21:], 'unreadable'),
    'twelve bits': (framed(jpeg, precision=12), 'not an image'),
    'no components': (framed(jpeg, components=0), ('not an image', 'unreadable')),
    'two components': (framed(jpeg, components=2), ('not an image', 'unreadable', 'truncated')),
    'no height': (framed(jpeg, height=0), ('not an image', 'unreadable')),
    'no width': (framed(jpeg, width=0), ('not an image', 'unreadable')), 'higher': (framed(jpeg, height=400), 'truncated'),
    'huge': (framed(jpeg, height=65535, width=65535), 'too large'),
    'huge progressive': (framed(several, height=7000, width=7500), 'too large'),
    'no sampling': (framed(several, sampling=0), 'unreadable'), 'lossless': (framed(jpeg, kind=0xc3), ('unreadable', 'truncated')),
    'arithmetic': (framed(jpeg, kind=0xc9), None), 'hierarchical': (framed(jpeg, kind=0xc5), ('unreadable', 'truncated', 'not an image')),
    'long part': (jpeg[:2] + b'\xff\xe2\xff\xff' + jpeg[2:], ('truncated', 'unreadable')), 'short part': (noted(b'\xff\xe2\0\0'), ''),
    **{f'turned {i}': (noted(exif([(0x112, 3, 1, i)]), saved(tall, 'JPEG', quality=95)), '') for i in range(1, 10)},
    'turned 0': (noted(exif([(0x112, 3, 1, 0)])), ''), 'turned long': (noted(exif([(0x112, 4, 1, 6)])), ''),
    'turned by text': (noted(exif([(0x112, 2, 4, 0x363636)])), ''), 'turned by many': (noted(exif([(0x112, 3, 2, 0x60006)])), ''),
    'turned late': (jpeg[:scan] + exif([(0x112, 3, 1, 6)]) + jpeg[scan:], ''), 'text resolution': (noted(text_resolution(1)), ''),
    'text resolution, turned': (noted(text_resolution(6)), ''),
    'bad exif': (noted(part(0xe1, b'Exif\0\0' + b'MM\0*\xff\xff\xff\xff')), ''),
    'exif of gigabytes': (noted(part(0xe1, b'Exif\0\0' + tags([(i, 7, 60_000, 8) for i in range(5000)]))), ''),
    'exif again': (noted(exif([(0x112, 3, 1, 3)])*900), '')}

# PNG

def chunk(kind, data): return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

def png(width, height, rows, depth=8, kind=0, before=b''):
    "A PNG with any header and any rows"
    head = chunk(b'IHDR', struct.pack('>LLBBBBB', width, height, depth, kind, 0, 0, 0))
    return b'\x89PNG\r\n\x1a\n' + head + before + chunk(b'IDAT', zlib.compress(rows, 9)) + chunk(b'IEND', b'')

plain = saved(gray, 'PNG')
at = plain.index(b'IDAT') - 4

def with_chunk(kind, data): return plain[:at] + chunk(kind, data) + plain[at:]

def exif_chunk(n): return chunk(b'eXIf', tags([(0x112, 3, 1, n)]))

# chkstyle: ignore-node
pngs = {'png gray': (plain, ''), 'png sixteen': (saved(wide, 'PNG'), ''), 'png palette': (saved(gray.convert('P'), 'PNG'), ''),
    'png rgba': (saved(gray.convert('RGBA'), 'PNG'), ''), 'png la': (saved(gray.convert('LA'), 'PNG'), ''),
    'png one bit': (saved(gray.convert('1'), 'PNG'), ''), 'png transparent': (saved(gray.convert('P'), 'PNG', transparency=0), ''),
    'png transparent gray': (saved(gray, 'PNG', transparency=5), ''), 'png turned': (plain[:at] + exif_chunk(6) + plain[at:], ''),
    'png turned 9': (plain[:at] + exif_chunk(9) + plain[at:], ''), 'png turned behind': (plain[:-12] + exif_chunk(8) + plain[-12:], ''),
    'png junk behind': (plain + b'junk', ''), 'png bad note': (plain[:at] + chunk(b'tEXt', b'a\0b')[:-1] + b'?' + plain[at:], ''),
    'png cut': (plain[:len(plain)//2], 'truncated'), 'png no end': (plain[:-12], 'truncated'),
    'png zeros below': (plain[:len(plain)//2] + bytes(len(plain)//2), 'unreadable'),
    'png zeros behind data': (plain[:-12] + bytes(5000), 'truncated'),
    'png flipped': (plain[:at+500] + bytes([plain[at+500] ^ 1]) + plain[at+501:], 'unreadable'),
    'png few rows': (png(128, 128, bytes(129*60)), ('', 'truncated')), 'png no rows': (png(128, 128, b''), 'truncated'),
    'png no data': (plain[:at] + plain[-12:], ('unreadable', 'not an image')),
    'png no width': (png(0, 9, bytes(9)), ('not an image', 'unreadable')), 'png huge': (png(40_000, 40_000, bytes(99)), 'too large'),
    'png endless': (png(2**31 - 1, 2**31 - 1, bytes(99)), 'too large'),
    'png black bomb': (png(20_000, 20_000, bytes(2501*20_000), 1), 'too large'),
    'png odd kind': (png(9, 9, bytes(99), kind=7), ('not an image', 'unreadable')),
    'png odd depth': (png(9, 9, bytes(99), 5), ('not an image', 'unreadable')),
    'png no palette': (png(9, 9, bytes(90), kind=3), ('', 'unreadable')),
    'png long chunk': (plain[:at] + b'\x7f\xff\xff\xfftEXt' + plain[at:], 'truncated'),
    'png odd chunk': (plain[:at] + b'\0\0\0\0\0\0\0\0\0\0\0\0' + plain[at:], 'truncated'),
    'png many chunks': (plain[:at] + chunk(b'tEXt', b'a\0b')*101_000 + plain[at:], 'too large'),
    'png text bombs': (plain[:at] + chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(1_000_000), 9))*200 + plain[at:], ''),
    'png profile bomb': (with_chunk(b'iCCP', b'a\0\0' + zlib.compress(bytes(50_000_000), 9)), ''),
    'png exif of gigabytes': (with_chunk(b'eXIf', tags([(i, 7, 300_000, 8) for i in range(25_000)])), ''),
    'apng': (many(gray, 'PNG'), 'more than one'), 'apng of one': (with_chunk(b'acTL', struct.pack('>LL', 1, 0)), None)}

# TIFF

def tiff(entries, rest=b'', order='<'): return tags(sorted(entries), order) + rest

def plain_tiff(w, h, *more, compression=1, at=4, n=1, strips=1):
    "The tags of a gray TIFF"
    size = [(256, 4, 1, w), (257, 4, 1, h), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    return [*size, (273, 4, strips, at), (278, 4, 1, h), (279, 4, strips, n), *more]

def tiled(w, h):
    "The tags of a TIFF of one pixel in a tile of any size"
    return [*plain_tiff(1, 1, compression=8)[:5], (322, 4, 1, w), (323, 4, 1, h), (324, 4, 1, 122), (325, 4, 1, len(bomb))]

def chained(pages):
    "A TIFF of many pages of one pixel"
    entries = b''.join(struct.pack('<HHLL', *o) for o in plain_tiff(1, 1))
    size = 2 + len(entries) + 4
    starts = [8 + i*size for i in range(1, pages)] + [0]
    return b'II*\0' + struct.pack('<L', 8) + b''.join(struct.pack('<H', 8) + entries + struct.pack('<L', o) for o in starts)

def turned_tiff(n): return saved(tall, 'TIFF', tiffinfo={274: n}, compression='tiff_lzw' if n in (1, 3, 5, 7) else 'raw')

floats = pixels.astype('f4')/255
strange = floats.copy()
strange[:3] = np.array([np.nan, np.inf, -np.inf])[:,None]
bomb = zlib.compress(bytes(50_000_000), 9)
strips = struct.pack('<L', 8)*500_000

# chkstyle: ignore-node
tiffs = {'tiff gray': (saved(gray, 'TIFF'), ''), 'tiff sixteen': (saved(wide, 'TIFF'), ''),
    'tiff lzw': (saved(gray, 'TIFF', compression='tiff_lzw'), ''), 'tiff deflate': (saved(wide, 'TIFF', compression='tiff_deflate'), ''),
    'tiff jpeg': (saved(colour, 'TIFF', compression='jpeg'), ''), 'tiff float': (saved(Image.fromarray(floats), 'TIFF'), ''),
    'tiff strange floats': (saved(Image.fromarray(strange), 'TIFF'), ''),
    'tiff no finite float': (saved(Image.fromarray(strange[:3]), 'TIFF'), ''),
    'tiff negative': (saved(Image.fromarray(pixels.astype('i4') - 99), 'TIFF'), ''),
    'tiff wide': (saved(Image.fromarray(pixels.astype('i4')*100_000), 'TIFF'), ''),
    'tiff lab': (saved(Image.merge('LAB', [gray, Image.new('L', gray.size, 128), Image.new('L', gray.size, 128)]), 'TIFF'), ''),
    'tiff big': (saved(gray, 'TIFF', big_tiff=True), ''), **{f'tiff turned {i}': (turned_tiff(i), '') for i in range(1, 10)},
    'tiff chain': (chained(100_000), 'more than one'), 'tiff pages': (many(gray, 'TIFF'), 'more than one'),
    'tiff loop': (tiff(plain_tiff(1, 1))[:-4] + struct.pack('<L', 8), ('', 'more than one')),
    'tiff cut': (saved(gray, 'TIFF')[:2000], ('truncated', 'unreadable', 'not an image')),
    'tiff lzw cut': (saved(gray, 'TIFF', compression='tiff_lzw')[:3000], ('unreadable', 'truncated', 'not an image')),
    'tiff nowhere': (b'II*\0\xff\xff\xff\x7f', 'unreadable'), 'tiff huge': (tiff(plain_tiff(60_000, 60_000)), 'too large'),
    'tiff no width': (tiff(plain_tiff(0, 5)), ('not an image', 'unreadable')),
    'tiff huge tile': (tiff(tiled(40_000, 40_000), bomb), 'too large'),
    'tiff strip bomb': (tiff(plain_tiff(9000, 9000, compression=8, at=122, n=len(bomb)), bomb), 'too large'),
    'tiff many strips': (tiff(plain_tiff(1, 1, at=122, n=1, strips=200_000), strips), 'too large'),
    'tiff tags of gigabytes': (tiff([*plain_tiff(1, 1), *((i, 7, 90_000, 8) for i in range(30_000, 30_900))], bytes(90_000)), 'unreadable'),
    'tiff many tags': (tiff([*plain_tiff(1, 1), *((i, 3, 1, 8) for i in range(30_000, 60_000))]), 'unreadable'),
    'tiff text size': (tiff([(256, 2, 4, 0x303030), *plain_tiff(1, 1)[1:]]), ('unreadable', 'not an image')),
    'tiff text tile': (tiff(plain_tiff(1, 1, (322, 2, 4, 0x303030), (323, 2, 4, 0x303030), compression=8)), ('unreadable', 'not an image'))}

# The others

def riff(kind, data): return b'RIFF' + (len(data) + 12).to_bytes(4, 'little') + b'WEBP' + kind + len(data).to_bytes(4, 'little') + data

# chkstyle: ignore-node
webps = {'webp': (saved(colour, 'WEBP'), ''), 'webp lossless': (saved(colour, 'WEBP', lossless=True), ''),
    'webp alpha': (saved(gray.convert('RGBA'), 'WEBP'), ''), 'webp turned': (saved(tall, 'WEBP', exif=tags([(0x112, 3, 1, 6)])), ''),
    'webp cut': (saved(colour, 'WEBP')[:500], ('not an image', 'unreadable', 'truncated')),
    'webp lossless bomb': (riff(b'VP8L', b'\x2f' + b'\xff'*3 + b'\x0f' + bytes(9)), 'too large'),
    'webp canvas bomb': (riff(b'VP8X', bytes(4) + b'\xff'*6), 'too large'),
    'webp lossy bomb': (riff(b'VP8 ', b'\x10\0\0\x9d\x01\x2a\xff\x3f\xff\x3f' + bytes(9)), 'too large'),
    'webp pages': (many(gray, 'WEBP'), 'more than one'), 'webp odd': (riff(b'VP9 ', bytes(20)), ('not an image', 'unreadable'))}

def patched(data, at, value): return data[:at] + value + data[at+len(value):]

def j2k(im, **kwargs): return saved(im, 'JPEG2000', no_jp2=True, **kwargs)

def j2ks():
    "JPEG 2000: the codestream's header has its width at 8, its tiles' width at 24; then comes the style of its blocks"
    stream, size = j2k(gray), struct.Struct('>LL')
    style, bomb = stream.index(b'\xff\x52'), patched(stream, 8, size.pack(9000, 9000))
    tiles = patched(patched(stream, 8, size.pack(5000, 5000)), 24, size.pack(1, 1))
    start = stream.index(b'\xff\x93')
    other = stream[:start] + stream[style:style+14] + stream[start:]
    # chkstyle: ignore-node
    return {'j2k': (stream, ''), 'jp2': (saved(colour, 'JPEG2000'), ''), 'j2k sixteen': (j2k(wide), ''),
        'j2k tiles': (j2k(gray, tile_size=(64, 64)), ''), 'j2k bomb': (patched(bomb, 24, size.pack(9000, 9000)), 'too large'),
        'j2k small blocks': (j2k(gray, codeblock_size=(4, 4)), 'too large'),
        'j2k precincts': (j2k(gray, codeblock_size=(32, 32), precinct_size=(64, 64)), 'too large'),
        'j2k many tiles': (tiles, 'too large'), 'j2k layers': (patched(stream, style + 6, b'\xff\xff'), 'too large'),
        'j2k no tiles': (patched(stream, 24, bytes(8)), 'unreadable'), 'j2k other style in a tile': (other, ('too large', 'unreadable')),
        'j2k cut': (stream[:len(stream)//3], ('unreadable', 'truncated', 'not an image')),
        'jp2 boxes': (b'\0\0\0\x0cjP  \r\n\x87\n' + (8).to_bytes(4) + b'free'*1000, 'unreadable'),
        'jp2 box of no length': (b'\0\0\0\x0cjP  \r\n\x87\n' + bytes(4) + b'free'*1000, 'unreadable')}

def gif(width, height, blocks): return b'GIF89a' + struct.pack('<HHBBB', width, height, 0xf0, 0, 0) + bytes(6) + blocks

def frame_of(width, height, data): return b',' + struct.pack('<HHHHB', 0, 0, width, height, 0) + data + b';'

def bmp(width, height, data, compression=0):
    "A BMP with a black palette"
    head = struct.pack('<LHHLLllHHLLllLL', 1078 + len(data), 0, 0, 1078, 40, width, height, 1, 8, compression, 0, 0, 0, 256, 0)
    return b'BM' + head + bytes(1024) + data

# chkstyle: ignore-node
others = {'gif': (saved(gray, 'GIF'), ''), 'gif pages': (many(gray, 'GIF'), 'more than one'),
    'gif cut': (saved(gray, 'GIF')[:2000], ('truncated', 'unreadable')),
    'gif huge': (gif(65535, 65535, frame_of(65535, 65535, b'\2\2\x44\1\0')), 'too large'),
    'gif slow': (gif(100, 100, frame_of(100, 100, b'\2' + b'\1\x44'*4_100_000 + b'\0')), 'too large'),
    'gif notes': (gif(100, 100, b'!\xfe' + b'\1a'*400_000 + b'\0'), ('unreadable', 'not an image')), 'bmp': (saved(gray, 'BMP'), ''),
    'bmp colour': (saved(colour, 'BMP'), ''), 'bmp upside down': (bmp(4, -4, bytes(16)), ''),
    'bmp cut': (saved(gray, 'BMP')[:5000], 'truncated'), 'bmp huge': (bmp(60_000, 60_000, b'a'), 'too large'),
    'bmp slow': (bmp(6000, 6000, b'\1\5'*100, 1), 'too large'),
    'bmp jumps': (bmp(2000, 2000, b'\0\2\xff\xff'*99_999, 1), ('', 'unreadable', 'truncated')), 'pgm': (saved(gray, 'PPM'), ''),
    'pgm sixteen': (saved(wide.convert('I'), 'PPM'), ''), 'pgm text': (b'P2 2 2 255 0 1 2 3', ''),
    'pgm slow text': (b'P2 3000 3000 255 ' + b'1 '*9_000_000, 'too large'),
    'pgm slow': (b'P5 3000 3000 4095\n' + bytes(18_000_000), 'too large'), 'pgm huge': (b'P5 99999 99999 255\n', 'too large'),
    'dicom': (bytes(128) + b'DICM', 'no image'),
    'pgm cut': (saved(gray, 'PPM')[:5000], 'truncated'), 'pgm endless number': (b'P5 ' + b'9'*100_000, ('unreadable', 'not an image'))}

starts = dict(text=b'this is no image', postscript=b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n%%EndComments\nshowpage\n',
    pdf=b'%PDF-1.7\n', html=b'<html><body>', svg=b'<svg xmlns="http://www.w3.org/2000/svg"/>', zip=b'PK\3\4', gzip=b'\x1f\x8b\x08',
    icon=b'\0\0\1\0\1\0', photoshop=b'8BPS\0\1', fits=b'SIMPLE  = T', program=b'\x7fELF\2\1\1',
    apple=b'\0\5\x16\7\0\2\0\0Mac OS X', zeros=bytes(4096), ones=b'\xff'*4096, random=rng.bytes(4096), farbfeld=b'farbfeld',
    webm=b'\x1aE\xdf\xa3', avif=b'\0\0\0\x1cftypavif', nifti=b'\x5c\1\0\0', exr=b'v/1\1', short=b'B')

def flipped(n=150):
    "Images with a few bytes changed at random: usable or not, but never otherwise than when they are opened"
    kinds = jpegs | pngs | tiffs | webps | others
    whole = [kinds[o][0] for o in ('gray', 'progressive', 'png sixteen', 'tiff lzw', 'webp', 'gif', 'bmp')]
    for i in range(n):
        data = bytearray(whole[i % len(whole)])
        for at in rng.integers(0, len(data) if i % 2 else 700, 3): data[at % len(data)] = rng.integers(256)
        yield f'flipped {i}', (bytes(data), None)

def animals():
    "All of them: name → (bytes, start of its problem, or several that it may have; None for any)"
    found = jpegs | pngs | tiffs | others | {k: (v, 'not an image') for k,v in starts.items()} | dict(flipped())
    if features.check('webp'): found |= webps
    if features.check('jpg_2000'): found |= j2ks()
    return found

def write(folder):
    "Write the zoo to `folder`; file → start of its problem"
    made = {k.replace(' ', '_').replace(',', '') + '.img': v for k,v in animals().items()}
    for k,(data,_) in made.items(): (Path(folder)/k).write_bytes(data)
    return {k: v for k,(_,v) in made.items()}

if __name__ == '__main__': print(len(write(sys.argv[1])), 'animals')
