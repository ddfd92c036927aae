"The command line as a person meets it: help at once, one clear line for what they can put right."
import subprocess
import sys
import time

import pytest
from notebooks import ROOT
from typer.testing import CliRunner

from wsss_nb.cli import app

BAD = {   # what was typed: what the one line must say
    'train --preset smoke --set terms.fbr.lambda_bgg=1 --method cam+fbr': ['terms.fbr.lambda_bgg', 'unknown field', "'lambda_bg'"],
    'train --preset smoke --set training.batch_size=zero': ['training.batch_size'],
    'train --preset smoke --set optim.lr=-1': ['optim.lr', 'greater than 0'],
    'train --preset smoke --set seed': ['field=value'],
    'train --preset enormous': ["'enormous'", 'smoke'],
    'train --method cam+magic': ["'magic'"],
    'train --preset smoke --data folder:no/such/place': ['no/such/place'],
    'train --preset smoke --data imagenet': ['imagenet', 'cooccur'],
    'train --preset smoke --device warp': ['warp'],
    'train --recipe no_such_recipe.json': ['no_such_recipe.json'],
    'data check folder:no/such/place': ['no/such/place'],
    'data show cooccur?p=2': ['p'],
    'runs show 0123': ["'0123'"],
    'runs rm 0123': ["'0123'"],
    'cams 0123': ["'0123'"],
    'eval 0123': ["'0123'"],
    'figure no.such': ['no.such'],
}


def shell(*args, cwd=ROOT):
    return subprocess.run([sys.executable, '-c', 'from wsss_nb.cli import app; app(prog_name="wsss_nb")', *args],
                          cwd=cwd, capture_output=True, text=True, env=None)


def one_line(code, out, err):
    assert code == 2, (code, out, err)
    assert out == '' and err.startswith('wsss_nb: ') and err.count('\n') == 1 and 'Traceback' not in err, (out, err)
    return err


@pytest.mark.parametrize('typed', BAD)
def test_bad_input_is_one_clear_line(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, typed.split())
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    line = one_line(done.exit_code, done.stdout, done.stderr)
    for word in BAD[typed]: assert word in line
    assert not list(tmp_path.glob('runs/*/')), 'a run was started'


def test_bad_input_in_a_shell(tmp_path):
    done = shell('data', 'check', 'folder:no/such/place', cwd=tmp_path)
    one_line(done.returncode, done.stdout, done.stderr)


def test_unknown_option_in_a_shell():
    done = shell('train', '--epoch', '3')
    assert done.returncode == 2 and '--epoch' in done.stderr and 'Traceback' not in done.stderr


def test_help_is_quick_and_lists_every_command():
    start = time.perf_counter()
    done = shell('--help')
    assert done.returncode == 0 and time.perf_counter() - start < 3   # a third of that on a free machine
    for name in 'train cams eval data runs figure demo'.split(): assert f'  {name} ' in done.stdout


@pytest.mark.parametrize('command', ['train', 'cams', 'eval', 'data check', 'data show', 'runs', 'runs show', 'runs rm', 'figure', 'demo'])
def test_every_command_explains_itself(command):
    done = CliRunner().invoke(app, [*command.split(), '--help'])
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) > 5


def test_a_bug_keeps_its_traceback(monkeypatch):
    from wsss_nb.data import catalog

    def broken(*args, **kwargs): raise ZeroDivisionError('a bug')
    monkeypatch.setattr(catalog, 'open_data', broken)
    assert isinstance(CliRunner().invoke(app, ['data', 'check', 'cooccur']).exception, ZeroDivisionError)


def test_no_runs_yet(tmp_path):
    done = CliRunner().invoke(app, ['runs', '--runs', str(tmp_path/'runs')])
    assert done.exit_code == 0 and 'No runs' in done.stdout and not (tmp_path/'runs').exists()
