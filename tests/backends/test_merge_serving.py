"""The template as servers read it: the same text as ours, by Jinja and by Go's own text/template."""

import json
import shutil
import subprocess

import pytest

from backends.merge.companions import jinja, modelfile
from converters.common.errors import UserError
from converters.text.base import BOS, EOS
from converters.text.conversation import Turn
from converters.text.template import get_template, template_names
from converters.tokenizers.load import load_tokenizer

NAMES = {BOS: "<|begin_of_text|>", EOS: "<|end_of_text|>"}
ANSWERED = [Turn("user", "a {{b}} \n\n c?"), Turn("assistant", "d\n"), Turn("user", 'e "f"\n\ng')]
CONVERSATIONS = [
    [Turn("user", " 计算 1.5 + 2.5？\n\nWhy? ")],
    ANSWERED,
    [Turn("system", " Be brief. "), *ANSWERED],
]


def ours(template, turns):
    """The text that the template puts before the model, special tokens by name."""
    return "".join(NAMES.get(segment.text, segment.text) for segment in template.prompt(turns))


@pytest.mark.parametrize("turns", CONVERSATIONS, ids=["question", "turns", "system"])
@pytest.mark.parametrize("name", template_names())
def test_the_chat_template_is_our_template(name, turns):
    sandbox = pytest.importorskip("jinja2.sandbox")
    from jinja2.exceptions import TemplateError

    def refuse(message):
        raise TemplateError(message)

    template = get_template(name)
    # as transformers compiles chat templates
    environment = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = refuse
    compiled = environment.from_string(jinja(template))
    values = {
        "messages": [{"role": turn.role, "content": turn.text} for turn in turns],
        "bos_token": NAMES[BOS],
        "eos_token": NAMES[EOS],
        "add_generation_prompt": True,
    }
    try:
        wanted = ours(template, turns)
    except UserError:
        with pytest.raises(TemplateError):
            compiled.render(values)
        return
    assert compiled.render(values) == wanted


def test_a_tokenizer_without_bos_gets_none():
    pytest.importorskip("jinja2")
    from jinja2 import Environment

    text = (
        Environment()
        .from_string(jinja(get_template("bare")))
        .render(messages=[{"role": "user", "content": "x"}], eos_token="<|im_end|>")
    )
    assert text == "x"


def test_the_modelfile_names_stops_and_what_it_cannot_say(tiny_tokenizer):
    tokenizer = load_tokenizer(tiny_tokenizer)
    text = modelfile(get_template("llama3"), tokenizer)
    lines = text.splitlines()
    assert lines[1] == "FROM ."
    assert lines[-2:] == ['PARAMETER stop "<|eot_id|>"', 'PARAMETER stop "<|end_of_text|>"']
    assert "begin_of_text" not in text
    assert "a system text goes before the first question" in modelfile(get_template("gemma"), tokenizer)
    assert "has no BOS" in modelfile(get_template("chatml"), tokenizer)
    assert modelfile(get_template("squad"), tokenizer) is None


GO = """package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type Message struct{ Role, Content string }
type Case struct {
	Template, System string
	Messages         []Message
}

// as Ollama's template.Execute hands values over to a template that names .Messages
func main() {
	var cases []Case
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		panic(err)
	}
	var texts []string
	for _, c := range cases {
		var text strings.Builder
		parsed := template.Must(template.New("").Option("missingkey=zero").Parse(c.Template))
		values := map[string]any{"System": c.System, "Messages": c.Messages, "Response": ""}
		if err := parsed.Execute(&text, values); err != nil {
			panic(err)
		}
		texts = append(texts, text.String())
	}
	json.NewEncoder(os.Stdout).Encode(texts)
}
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("go") is None, reason="needs the Go toolchain")
def test_go_renders_the_modelfile_as_our_template(tiny_tokenizer, tmp_path):
    tokenizer = load_tokenizer(tiny_tokenizer)
    cases, wanted = [], []
    for name in template_names():
        template = get_template(name)
        text = modelfile(template, tokenizer)
        for turns in CONVERSATIONS:
            # texts without white space at their ends, which Ollama cannot take off
            turns = [Turn(turn.role, turn.text.strip()) for turn in turns]
            try:
                asked = ours(template, turns)
            except UserError:
                continue
            if text is None:
                continue
            system = next((turn.text for turn in turns if turn.role == "system"), "")
            messages = [{"Role": turn.role, "Content": turn.text} for turn in turns]
            body = text.partition('TEMPLATE """')[2].partition('"""')[0]
            cases.append({"Template": body, "System": system, "Messages": messages})
            wanted.append(asked.removeprefix(NAMES[BOS]))
    assert len(wanted) > 12
    (tmp_path / "main.go").write_text(GO)
    ran = subprocess.run(
        ["go", "run", str(tmp_path / "main.go")],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=300,
        env={"GOCACHE": str(tmp_path / "cache"), "PATH": "/usr/local/go/bin:/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert ran.returncode == 0, ran.stderr
    for case, found, asked in zip(cases, json.loads(ran.stdout), wanted, strict=True):
        assert found == asked, case
