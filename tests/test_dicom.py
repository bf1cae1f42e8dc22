"DICOM files, cut, spoilt or made to harm: an answer or one sentence in bounded time and memory; nothing of a patient gets out."
import io, re, resource, shutil, struct, sys, time, zlib
from pathlib import Path
import numpy as np, pandas as pd, pydicom, pytest
from pydicom.data import get_testdata_file, get_testdata_files
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ComputedRadiographyImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from pydicom.uid import ImplicitVRLittleEndian, generate_uid
from pneumo_imbalance.dicom import dicom_picture, hashed, open_dicom, read_dicom
from pneumo_imbalance.data import read_table, scan_images
from pneumo_imbalance.dicom_phantom import dicom_phantoms
from pneumo_imbalance.image import measure_image, open_image
from pneumo_imbalance.labels import one_finding
from pneumo_imbalance.leaks import check_leaks
from pneumo_imbalance.study import study

def made(x, syntax=ExplicitVRLittleEndian, **more):
    "The bytes of a DICOM file of gray values `x`"
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID, ds.SOPClassUID, ds.SOPInstanceUID = syntax, ComputedRadiographyImageStorage, generate_uid()
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.SamplesPerPixel = *x.shape, 16, 12, 11, 1
    ds.PixelRepresentation, ds.PhotometricInterpretation, ds.WindowCenter, ds.WindowWidth = 0, 'MONOCHROME2', 2048, 4096
    for k,v in more.items(): setattr(ds, k, v)
    ds.PixelData = x.astype('<u2').tobytes()
    out = io.BytesIO()
    pydicom.dcmwrite(out, ds, enforce_file_format=True)
    return out.getvalue()

wedge = np.tile(np.linspace(0, 4095, 40).round(), (30, 1))

def picture(data, window='header'): return dicom_picture(open_dicom(data)[0], window)

def judged(path):
    "A row of the table, and the same answer from `open_image`; in seconds"
    start = time.monotonic()
    row = measure_image(path)
    try: opened = bool(open_image(path))
    except (ValueError, OSError): opened = False
    assert time.monotonic() - start < 20
    assert opened == (row['problem'] == ''), row
    return row

@pytest.mark.parametrize('path', [o for o in get_testdata_files() if o.lower().endswith(('.dcm', 'dicomdir'))], ids=lambda o: Path(o).name)
def test_pydicoms_own_files(path): judged(path)

@pytest.mark.parametrize('syntax', [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_the_same_picture_in_every_syntax(syntax):
    assert (np.asarray(picture(made(wedge, syntax))[0]) == np.asarray(picture(made(wedge))[0])).all()

@pytest.mark.parametrize('share', [.1, .5, .9, .99])
def test_cut_files(tmp_path, share):
    data = made(wedge)
    (tmp_path/'cut.dcm').write_bytes(data[:int(len(data)*share)])
    assert judged(tmp_path/'cut.dcm')['problem']

def test_flipped_bytes(tmp_path):
    rng, data, file = np.random.default_rng(0), made(wedge), tmp_path/'spoilt.dcm'
    for _ in range(60):
        spoilt = bytearray(data)
        for i in rng.integers(132, len(data) - wedge.size*2, 4): spoilt[i] = rng.integers(256)
        file.write_bytes(spoilt)
        judged(file)

def deep(n):
    "Sequences nested `n` deep, of undefined length"
    head = struct.pack('<HH2sHL', 0x0008, 0x1140, b'SQ', 0, 0xffffffff) + struct.pack('<HHL', 0xfffe, 0xe000, 0xffffffff)
    return head*n + (struct.pack('<HHL', 0xfffe, 0xe00d, 0) + struct.pack('<HHL', 0xfffe, 0xe0dd, 0))*n

def test_made_to_harm(tmp_path):
    before, data = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, made(wedge)
    meta = data.index(b'\x08\x00\x16\x00')
    bomb = made(wedge, DeflatedExplicitVRLittleEndian)
    squeezed = zlib.compressobj(9, wbits=-15)
    megabyte = squeezed.compress(bytes(10**6)) + squeezed.flush(zlib.Z_FULL_FLUSH) # a whole block, which may stand there again and again
    at = 132 + 12 + struct.unpack_from('<L', bomb, 140)[0]
    kinds = dict(deep=data[:meta] + deep(1000) + data[meta:], large=made(wedge, Rows=60000, Columns=60000),
        bomb=bomb[:at] + megabyte*600 + squeezed.flush(),
        private=data[:meta] + struct.pack('<HH2sHL', 0x0009, 0x1001, b'OB', 0, 1_000_000_000) + data[meta:])
    expected = dict(deep='unreadable', large='too large (60000', bomb='too large (deflated)', private='no image')
    for name,o in kinds.items():
        (tmp_path/f'{name}.dcm').write_bytes(o)
        assert judged(tmp_path/f'{name}.dcm')['problem'].startswith(expected[name])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6 # KB

# Steps

def test_values_signed_and_rescaled():
    x = np.tile(np.arange(-20, 20), (8, 1))
    window = dict(WindowCenter=10, WindowWidth=80, VOILUTFunction='LINEAR_EXACT')
    data = made(x.astype('i2').view('u2'), PixelRepresentation=1, RescaleSlope=2, RescaleIntercept=10, **window)
    expected = np.clip((2*x + 10 - 10)/80 + .5, 0, 1)*255
    assert np.abs(np.asarray(picture(data)[0]).astype(float) - expected).max() <= 1

def test_inversion_comes_after_the_window():
    window = dict(WindowCenter=1000, WindowWidth=500)
    both = [picture(made(wedge, PhotometricInterpretation=o, **window))[0] for o in ('MONOCHROME1', 'MONOCHROME2')]
    a, b = (np.asarray(o).astype(int) for o in both)
    assert np.abs(a + b - 255).max() <= 1

def test_padding_is_black():
    x = wedge.copy()
    x[:, :5] = 0
    for kind in ('MONOCHROME1', 'MONOCHROME2'):
        im = np.asarray(picture(made(x, PhotometricInterpretation=kind, PixelPaddingValue=0))[0])
        assert (im[:, :5] == 0).all()

def windowed_files():
    "pydicom's own gray files with one frame and a window"
    for f in get_testdata_files():
        try: ds, gray = pydicom.dcmread(f), open_dicom(Path(f).read_bytes())[0].PhotometricInterpretation.startswith('MONO')
        except Exception: continue
        if gray and ds.get('WindowWidth') and 'PixelData' in ds: yield f

@pytest.mark.parametrize('path', windowed_files(), ids=lambda o: Path(o).name)
def test_windows_are_those_of_pydicom(path):
    "The same gray values but for the scale: pydicom gives them on that of the stored values"
    ds = pydicom.dcmread(path)
    try: x = ds.pixel_array
    except Exception: pytest.skip('no decoder for it')
    theirs = apply_voi_lut(apply_modality_lut(x, ds), ds, 0).astype(float)
    ours = np.asarray(read_dicom(path)[0]).astype(float)
    if ours.shape != theirs.shape or ds.get('PixelPaddingValue') is not None: pytest.skip('made square, or padding painted black')
    if ds.PhotometricInterpretation == 'MONOCHROME1': ours = 255 - ours
    ways = [str(o) for o in ds.get('PatientOrientation') or []]
    if ways[:1] == ['R']: ours = ours[:, ::-1]
    fit = np.polyfit(theirs.ravel(), ours.ravel(), 1)
    assert np.abs(np.polyval(fit, theirs) - ours).max() < 1

# Privacy

def test_nothing_of_a_patient_gets_out(tmp_path, monkeypatch):
    monkeypatch.setenv('PNEUMO_CACHE', str(tmp_path/'cache'))
    said = dict(PatientID='MRN-123456', PatientName='Doe^Jane', PatientBirthDate='19610203', StudyDate='20190530', AccessionNumber='ACC777',
        StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid(), ReferringPhysicianName='Who^Doctor', PatientAge='058Y')
    (tmp_path/'a.dcm').write_bytes(made(wedge, **said))
    im, row = read_dicom(tmp_path/'a.dcm')
    text = str(row) + str(measure_image(tmp_path/'a.dcm')) + str(im.info)
    secrets = 'MRN', '123456', 'Doe', 'Jane', '19610203', '20190530', 'ACC777', 'Who', str(said['StudyInstanceUID'])
    assert not [o for o in secrets if o in text]
    assert row['age'] == 58 and row['year'] == 2019 and row['patient'] == hashed('MRN-123456')
    monkeypatch.setenv('PNEUMO_KEY', 'another')
    assert hashed('MRN-123456') != row['patient']

# Trees and studies

@pytest.fixture(scope='module')
def hospital(tmp_path_factory):
    "A tree of DICOM files with names of three kinds, a PNG of one of them in another split, a report and a directory"
    root = tmp_path_factory.mktemp('hospital')/'data'
    counts = dict(train=dict(NORMAL=12, PNEUMONIA=24), test=dict(NORMAL=6, PNEUMONIA=8))
    dicom_phantoms(root, counts, size=96, opacity=3.)
    files = sorted((root/'train/NORMAL').glob('*.dcm'))
    files[0].rename(files[0].with_suffix(''))
    files[1].rename(files[1].with_name('1.2.840.113619.2.55'))
    open_image(files[2]).save(root/'test/NORMAL/other.png')
    (root/'train/NORMAL/notes.txt').write_text('no image')
    for name in ('rtplan.dcm', 'reportsi.dcm'): shutil.copy(get_testdata_file(name), root/'train/NORMAL'/name)
    return root

def test_a_tree_of_dicom_and_png(hospital, capsys):
    df = scan_images(hospital)
    assert '2 DICOM files without a picture' in capsys.readouterr().out
    assert len(df) == 51 and (df.problem == '').all() and df.path.str.endswith('.png').sum() == 1
    assert df[df.sex.notna()].patient.str.fullmatch('[0-9a-f]{16}').all()
    assert df.patient[df.path.str.endswith('other.png')].item() == 'test/NORMAL/other'

def test_the_same_image_as_dicom_and_as_png_is_found(hospital):
    report = check_leaks(scan_images(hospital), on_leak='warn')
    pairs = report.table[report.table.kind == 'near-duplicate']
    assert any('other.png' in f'{o.path_a} {o.path_b}' for o in pairs.itertuples())

def test_a_csv_goes_before_the_header(hospital):
    files = sorted(str(o) for o in (hospital/'test').rglob('*.dcm'))
    csv = pd.DataFrame(dict(path=files, label=['a', 'b']*7, patient=['p']*14, sex=['X']*14))
    df = read_table(csv, root='.')
    assert set(df.patient) == {'p'} and set(df.sex) == {'X'} and df.manufacturer.notna().all()
    df = read_table(csv.drop(columns=['patient', 'sex']), root='.')
    assert df.patient.str.fullmatch('[0-9a-f]{16}').all() and set(df.sex) <= {'F', 'M'}

def test_a_study_writes_nothing_of_a_patient(tmp_path, monkeypatch):
    "Everything that a study on DICOM files writes is read, its cache too"
    monkeypatch.setenv('PNEUMO_CACHE', str(tmp_path/'cache'))
    root = dicom_phantoms(tmp_path/'data', dict(train=dict(NORMAL=16, PNEUMONIA=24), test=dict(NORMAL=8, PNEUMONIA=8)), size=64, opacity=4.)
    for i,f in enumerate(sorted(root.rglob('*.dcm'))): f.rename(f.with_name(f'{i}.dcm'))
    small = dict(size=32, item_size=40, bs=8, frozen=0, unfrozen=1, lr_unfrozen=1e-3, pretrained=False, num_workers=0, on_leak='warn')
    study(root, tmp_path/'out', arch='shufflenet_v2_x0_5', **small)
    secrets = re.compile(rb'Phantom\^|person\d+_(bacteria|virus)|IM-\d{4}|\d{4}0704')
    found = [o for d in ('out', 'cache') for o in (tmp_path/d).rglob('*') if o.is_file() and secrets.search(o.read_bytes())]
    assert (tmp_path/'out/report.html').exists() and not found

def test_csvs_of_public_archives_are_read_by_one_line(tmp_path):
    "RSNA names the patient, and the file is called like it; a finding has a column of its own, with a row for each box"
    root = dicom_phantoms(tmp_path/'data', dict(train=dict(NORMAL=3, PNEUMONIA=3)), size=64)
    names = []
    for i,f in enumerate(sorted(root.rglob('*.dcm'))): names.append(f.rename(tmp_path/f'p{i}.dcm').stem)
    csv = pd.DataFrame(dict(patientId=[*names, names[-1]], Target=[0, 0, 0, 1, 1, 1, 1]))
    df = read_table(one_finding(csv, 'Target', 'patientId'), path='patientId', root=tmp_path, suffix='.dcm')
    assert len(df) == 6 and (df.problem == '').all() and df.label.value_counts().to_dict() == {'Target': 3, 'no Target': 3}
    assert df.patient.str.fullmatch('[0-9a-f]{16}').all()

def test_without_the_extra_one_sentence_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pydicom', None)
    (tmp_path/'a.dcm').write_bytes(bytes(128) + b'DICM' + bytes(100))
    with pytest.raises(ValueError, match=r"pip install 'pneumo_imbalance\[dicom\]'"): read_dicom(tmp_path/'a.dcm')
    assert 'pneumo_imbalance[dicom]' in measure_image(tmp_path/'a.dcm')['problem']
