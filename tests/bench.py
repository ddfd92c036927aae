"""Speed beside the plain formulation: python tests/bench.py [--only WORD] [--out figures]

Peer and ours are run in turns in one process, median of `REPEATS` after a warm-up; each row first checks that both give
the same numbers. Ratios are what counts: an absolute time holds only for the machine named in the file's head.
Writes bench.md and bench.csv."""
import argparse
import csv
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.cluster import KMeans

from wsss_nb.core import describe_device, pick_device, seed_everything
from wsss_nb.losses.contrast import pcl, pcl_grouped
from wsss_nb.losses.nroi import Bank, kmeans
from wsss_nb.metrics import Confusion, Sweep, predict_mask
from wsss_nb.recipe import make_recipe
from wsss_nb.train import build_objective

REPEATS = 5
ROWS: dict[str, Callable] = {}


@dataclass
class Row:
    "One comparison; `target` is what peer / ours should reach, or for a share the most it may be."
    work: str
    peer_name: str
    peer: Callable
    ours: Callable
    target: float
    share: bool = False     # report ours / peer - 1 instead: what ours adds
    repeats: int = REPEATS


def row(f):
    "Register a function (device -> Row); it asserts that peer and ours agree."
    ROWS[f.__name__.replace('_', ' ')] = f
    return f


def seconds(f, device) -> float:
    if device.type == 'cuda': torch.cuda.synchronize()
    start = time.perf_counter()
    f()
    if device.type == 'cuda': torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(r: Row, device) -> tuple[float, float]:
    "Medians of peer and ours, in turns."
    for f in (r.peer, r.ours): f()
    times = [(seconds(r.peer, device), seconds(r.ours, device)) for _ in range(r.repeats)]
    return tuple(statistics.median(t) for t in zip(*times))


def unit(x): return torch.nn.functional.normalize(x, dim=-1)


# %% the contrast

def contrast_data(device, queries=2048, groups=16, n=256, dim=128):
    q = torch.rand(queries, dim, device=device, requires_grad=True)
    p, bank = torch.rand(dim, device=device), torch.rand(50_000, dim, device=device)
    keys = bank[torch.randint(50_000, (groups, n), device=device)]
    return q, p, bank, keys


def grouped_loss(q, p, keys, tau=.5):
    g = len(keys)
    return pcl_grouped(q.view(g, -1, q.shape[1]), p.expand(g, -1), keys, tau).mean()


def backward(loss, *leaves):
    for x in leaves: x.grad = None
    loss.backward()


@row
def PCL_against_gathered_negatives(device):
    "Every query with its own 256 of 50,000 keys, gathered; ours: 16 groups that share their draw."
    q, p, bank, keys = contrast_data(device)
    each = keys.repeat_interleave(len(q) // len(keys), 0)
    assert torch.allclose(grouped_loss(q, p, keys), pcl(q, p, each, .5).mean(), atol=1e-4)

    def gather(): backward(pcl(q, p, bank[torch.randint(50_000, (len(q), 256), device=device)], .5).mean(), q)
    return Row('PCL, 2048 queries x 256 negatives x 128, forward and backward', 'gather [2048, 256, 128]', gather,
               lambda: backward(grouped_loss(q, p, bank[torch.randint(50_000, (16, 256), device=device)]), q), 30)


def looped_pcl(q, p, bank, tau, n=256):
    "Eq. 5 as one would write it: query by query."
    total = 0
    for x in q:
        z = bank[torch.randint(len(bank), (n,), device=q.device)]
        x = unit(x)
        pos, neg = (x @ unit(p)) / tau, (unit(z) @ x) / tau
        total = total - torch.log(pos.exp() / (pos.exp() + neg.exp().sum()))
    return total / len(q)


@row
def contrast_part_against_loops(device):
    "The fore-to-background part of 8 images: clustering, bank, contrast; peer: scikit-learn and a loop over queries."
    q, p, bank, keys = contrast_data(device)
    same = bank[:1].expand(50_000, -1)      # all keys equal: the draw cannot matter
    assert torch.allclose(looped_pcl(q, p, same, .5), grouped_loss(q, p, same[:16 * 256].view(16, 256, -1)), atol=1e-4)
    x = torch.rand(8, 784, 128, device=device)
    ring, mask = Bank(50_000, 128).to(device), torch.ones(8, 784, dtype=torch.bool, device=device)
    ring.push(bank)

    def loops():
        centres = [KMeans(8, n_init=10, max_iter=10, random_state=0).fit(i).cluster_centers_ for i in x.cpu().numpy()]
        new = torch.cat([bank, torch.as_tensor(np.concatenate(centres), device=device, dtype=bank.dtype)])[-50_000:]
        backward(looped_pcl(q, p, new, .5), q)

    def ours():
        centroids, valid, _ = kmeans(x, mask, 8, torch.Generator(device).manual_seed(0))
        ring.push(centroids.flatten(0, 1), valid.flatten())
        backward(grouped_loss(q, p, ring.sample(16, 256)), q)
    return Row('FBR contrast part: NROIs of 8 images of 28x28, bank, 2048 queries', 'scikit-learn + loop', loops, ours, 20)


@row
def NROI_against_scikit_learn(device):
    "Inertia within 3 % of scikit-learn's single start."
    centres = torch.randn(8, 8, 1, 128) * 2
    x = (centres + torch.randn(8, 8, 188, 128)).flatten(1, 2)[:, :1500].contiguous().to(device)
    mask = torch.ones(x.shape[:2], dtype=torch.bool, device=device)

    def ours(): return kmeans(x, mask, 8, torch.Generator(device).manual_seed(0))

    def peer(): return [KMeans(8, n_init=1, random_state=0).fit(i) for i in x.cpu().numpy()]
    inertia = torch.cdist(x, ours()[0]).amin(-1).square().sum().item()
    best = sum(KMeans(8, n_init=10, random_state=0).fit(i).inertia_ for i in x.cpu().numpy())
    assert inertia < 1.25 * best, (inertia, best)      # one start against the best of ten
    return Row('NROI, 8 images x 1500 positions x 128, K = 8', 'scikit-learn, one start', peer, ours, 1)


@row
def bank_against_concatenation(device):
    ring, new = Bank(50_000, 128).to(device), torch.rand(64, 128, device=device)
    state = [torch.rand(50_000, 128, device=device)]
    ring.push(state[0])
    ring.push(new)
    assert torch.equal(ring.keys[:64], new)

    def peer(): state[0] = torch.cat([state[0], new])[-50_000:]
    return Row('bank update, 64 NROIs into 50,000 x 128', 'torch.cat', peer, lambda: ring.push(new), 100 if device.type == 'cpu' else 1)


# %% metrics

@row
def threshold_sweep(device):
    g = np.random.default_rng(0)
    cam, truth = g.random((2, 375, 500), np.float32), g.integers(0, 21, (375, 500)).astype(np.uint8)
    steps, classes = np.arange(1, 61) / 100, [3, 7]

    def peer(): return [Confusion(20).update(truth, predict_mask(classes, cam, t)).miou() for t in steps]

    def ours(): return Sweep(20, steps).update(truth, classes, cam)
    assert np.allclose(ours().miou(), peer())
    return Row('sweep of 60 thresholds, one image of 500x375', 'one confusion matrix each', peer, ours, 200)


# %% the whole step

@row
def FBR_in_a_training_step(device):
    "What the FBR term adds to forward, backward and update of ResNet-50 (stem and stage 1 frozen), crop 448, batch 8."
    half = torch.autocast('cuda', torch.bfloat16, enabled=device.type == 'cuda')
    seed_everything(0)
    batch = dict(image=torch.rand(8, 3, 448, 448, device=device).contiguous(memory_format=torch.channels_last),
                 labels=(torch.rand(8, 20, device=device) < .08).float(), ids=list('abcdefgh'),
                 valid=torch.ones(8, 448, 448, dtype=torch.bool, device=device))
    batch['labels'][:, 0] = 1

    def make(method):
        recipe = make_recipe(method, preset='paper', overrides={'model.weights': 'random', 'model.frozen_stages': 0})
        o = build_objective(recipe, 20).to(device, memory_format=torch.channels_last)
        o.model.backbone._freeze(2)
        o.train()
        opt = torch.optim.SGD([p for p in o.parameters() if p.requires_grad], 1e-3, momentum=.9)

        def step():
            for t in o.terms.values(): t.start(50, 100)
            with half: loss, _ = o(batch)
            opt.zero_grad()
            loss.backward()
            opt.step()
            return loss
        return step
    return Row('FBR in a ResNet-50 training step, crop 448, batch 8', 'the step without FBR', make('cam'), make('cam+fbr'),
               .15 if device.type == 'cuda' else .25, share=True, repeats=20 if device.type == 'cuda' else 3)


@row
def cooccur_images(device):
    "No peer: images a second on one core, target 100."
    from wsss_nb.data.catalog import open_data
    data = open_data('cooccur')
    ids = data.ids('train')[:50]

    def ours(): return [data.load(i) for i in ids]
    return Row('cooccur: 50 images of 160x160', '100 images a second', lambda: time.sleep(.5), ours, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--only', default='', help='rows whose name has this word')
    parser.add_argument('--out', default='figures', type=Path)
    parser.add_argument('--device', default='auto')
    args = parser.parse_args()
    device, done = pick_device(args.device), []
    for name, make in ROWS.items():
        if args.only.lower() not in name.lower(): continue
        seed_everything(0)
        r = make(device)
        peer, ours = measure(r, device)
        value = ours / peer - 1 if r.share else peer / ours
        ok = value <= r.target if r.share else value >= r.target
        done.append(dict(work=r.work, peer=r.peer_name, peer_ms=f'{peer * 1e3:.3g}', ours_ms=f'{ours * 1e3:.3g}',
                         result=f'+{100 * value:.1f} %' if r.share else f'{value:.3g}x',
                         target=f'<= {100 * r.target:.0f} %' if r.share else f'>= {r.target:g}x', reached='yes' if ok else 'no'))
        print(' | '.join(done[-1].values()), flush=True)
    if done and not args.only: write(done, args.out, device)


def write(done, out, device):
    out.mkdir(exist_ok=True)
    with (out/'bench.csv').open('w', newline='') as f:
        w = csv.DictWriter(f, done[0])
        w.writeheader()
        w.writerows(done)
    head = f"{describe_device(device)}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; " \
           f"torch {torch.__version__}, Python {platform.python_version()}; medians of runs in turns after a warm-up."
    lines = ['| ' + ' | '.join(c) + ' |' for c in [list(done[0]), ['---'] * len(done[0]), *(list(d.values()) for d in done)]]
    (out/'bench.md').write_text('\n'.join(['# Speed beside the plain formulation', '', head, '', *lines]) + '\n')


if __name__ == '__main__': main()
