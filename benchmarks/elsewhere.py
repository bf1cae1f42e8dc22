"""A model of chest-xray-pneumonia's training folder on its test folder, which comes from another source: what the page of `pneumo-score`
says, and whether it is right: `python -m benchmarks.elsewhere FOLDER`. Home's test images are patients of the training folder."""
import argparse, datetime, json, time
from pathlib import Path
from benchmarks.speed import machine
from pneumo_imbalance.data import class_counts, scan_images
from pneumo_imbalance.elsewhere import score_elsewhere
from pneumo_imbalance.evaluate import predict
from pneumo_imbalance.metrics import patients_of
from pneumo_imbalance.model import load_model, save_model
from pneumo_imbalance.remedy import fit_remedy
from pneumo_imbalance.score_page import score_html
from pneumo_imbalance.split import split_test, split_valid

HOW = dict(name='none', frozen=0, unfrozen=4, lr_unfrozen=3e-3, seed=42, size=64, item_size=72, on_leak='drop', pretrained=False)

def at_home(images): return split_valid(split_test(scan_images(images/'train'), seed=42), seed=42)

def rarer(df, share=.3):
    "Home's test images with so many pneumonias left out that a `share` is one: another mixture of the classes, and nothing else"
    test = df[df.split == 'test']
    ill = test[test.label == 'PNEUMONIA']
    n = round((len(test) - len(ill))*share/(1 - share))
    return test.drop(ill.sample(len(ill) - n, random_state=42).index)

def trained(df, folder):
    "Train, and save the model with its predictions of home"
    learn = fit_remedy(df, **HOW)
    valid, test = (predict(learn, df[df.split == o]) for o in ('valid', 'test'))
    save_model(learn, folder, valid, test, threshold='youden', seed=42, start='random')

def tables(found):
    "The tables of a page, by name; no file names"
    said = {k: getattr(found, k) for k in ('says', 'prior', 'worth', 'scores', 'halves', 'drop', 'compared', 'needed', 'moving')}
    return {k: v for k,v in said.items() if v is not None}

def truth(found):
    "What the labels say of the answers here: share of positives, PPV and NPV at the saved threshold"
    y, p = found.known.label == found.positive, found.known.predicted == found.positive
    return {k: round(float(v), 4) for k,v in dict(prevalence=y.mean(), PPV=y[p].mean(), NPV=(~y[~p]).mean()).items()}

def main(args):
    "Train unless there is a model, score with and without labels, write the tables"
    start = time.monotonic()
    own, df = at_home(args.images), scan_images(args.images/'test')
    if not (args.model/'model.json').exists(): trained(own, args.model)
    model = load_model(args.model, device='cpu')
    minutes = (time.monotonic() - start)/60
    args.out.mkdir(parents=True, exist_ok=True)
    seconds = {}
    for name,labels in dict(labels=True, nolabels=False).items():
        start = time.monotonic()
        found = score_elsewhere(model, df, labels)
        seconds[name] = round(time.monotonic() - start, 1)
        (args.pages/f'{name}.html').write_text(score_html(found)[0], encoding='utf-8')
        for k,t in tables(found).items():
            if labels or k == 'says': t.round(4).to_csv(args.out/f"{k}{'' if labels else '_nolabels'}.csv", index=k != 'says')
        if labels: known = dict(here=truth(found))
    home, model.home = model.home, model.home[model.home.split == 'valid'] # the control is made of home's test images
    control = score_elsewhere(model, rarer(own), labels=False)
    for k in ('says', 'prior', 'worth'): tables(control)[k].round(4).to_csv(args.out/f'{k}_control.csv', index=k != 'says')
    control = score_elsewhere(model, rarer(own))
    known['control'] = truth(control)
    home = home.groupby('split').agg(images=('label', 'size'), patients=('patient', 'nunique'))
    about = dict(date=str(datetime.date.today()), machine=machine(), model={k: model.about[k] for k in ('arch', 'size', 'threshold',
        'temperature', 'prior', 'seed', 'versions')}, recipe=HOW, truth=known,
        here=dict(images=len(df), patients=int(patients_of(df).nunique())), home=home.to_dict('index'), seconds=seconds)
    del about['machine']['load']
    (args.out/'about.json').write_text(json.dumps(about, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')
    print(class_counts(df), f'{minutes:.1f} minutes to train or load', sep='\n')

def parser():
    "The command's arguments"
    p = argparse.ArgumentParser(prog='python -m benchmarks.elsewhere', description=__doc__)
    p.add_argument('images', type=Path, help='folder with train and test')
    p.add_argument('--model', type=Path, required=True, help='folder for the model; one that is there is used')
    p.add_argument('--pages', type=Path, required=True, help='folder for the pages; they show images')
    p.add_argument('--out', type=Path, default=Path('nbs/results/elsewhere'), help='folder for the tables')
    return p

if __name__ == '__main__': main(parser().parse_args())
