"""Makes the goldens of chat templates with jinja2, as transformers sets it up.

tokenizer/jinja/testdata/jinja.json: small templates, their variables and what
they render, or that they fail. tokenizer/testdata/chat.json: the chat templates
of SmolLM2, Llama 3 and Qwen3 (as tools/fetch fetches them) and two
with {% generation %}, rendered over conversations.

    tools/fetch/smollm2.sh; tools/fetch/tokenizers.sh llama3; tools/fetch/tokenizers.sh qwen3
    $(tools/venv.sh) tools/golden/chat.py
"""

import json
import pathlib

import gguf
import jinja2
import transformers
from transformers.utils.chat_template_utils import _cached_compile_jinja_template, render_jinja_template

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "tokenizers"
VERSIONS = {"transformers": transformers.__version__, "jinja2": jinja2.__version__}

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hé <llo> 'x' \"y\" 你好"},
    {"role": "assistant", "content": " Hi. \n"},
]
VARS = {
    "messages": MESSAGES, "n": 3, "f": 2.5, "t": True, "none_value": None, "s": "a-b_c d", "empty": [], "words": ["b", "A", "c", "a"],
    "d": {"z": 1, "a": [1, 2.0, None, True, "é<&>\n"], "m": {"k": "v"}}, "rows": [{"k": 2, "g": "x"}, {"k": 1, "g": "y"}, {"k": 3, "g": "x"}],
}

SNIPPETS = r"""
{{ n }} {{ f }} {{ t }} {{ none_value }} {{ s }} {{ words }} {{ d }} {{ missing }}|
{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 1.0 }} {{ 1e20 }} {{ 1e-7 }} {{ 0.1 + 0.2 }}
{{ 1 + 2 * 3 - 4 }} {{ (1 + 2) * 3 }} {{ -n + 5 }} {{ +n }} {{ n - -1 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}
{{ 'a' ~ 1 ~ none_value ~ 2.0 }} {{ 'a' + 'b' }} {{ 'ab' * 3 }} {{ [1] * 2 + [3] }} {{ 3 * 'x' }} {{ 'a' 'b' }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 == 1.0 }} {{ true == 1 }} {{ '1' == 1 }} {{ 'B' != 'b' }} {{ n >= 3 }} {{ n <= 2 }}
{{ 'a' in 'cat' }} {{ 'a' in words }} {{ 'z' in d }} {{ 'q' not in d }} {{ 1 in [1, 2] }} {{ 'a' in missing }} {{ not 'a' in words }}
{{ t and n }} {{ none_value or 'x' }} {{ not t }} {{ t and not none_value }} {{ 0 or '' or [] or 'last' }} {{ missing or 'd' }}
{{ 'yes' if t else 'no' }} {{ 'yes' if none_value }}| {{ ('a' if n > 2 else 'b') ~ 'c' }} {{ 1 if false else 2 if true else 3 }}
{{ words[0] }} {{ words[-1] }} {{ words[1:3] }} {{ words[::-1] }} {{ words[:-1] }} {{ words[5] }}| {{ words[10:] }} {{ words[::2] }} {{ words[-1:0:-1] }} {{ words[-100:100] }}
{{ s[0] }} {{ s[-1] }} {{ s[2:] }} {{ s[::-1] }} {{ s[1:4] }} {{ '你好吗'[1] }} {{ '你好吗'[::-1] }} {{ s[100] }}|
{{ d.z }} {{ d['z'] }} {{ d.m.k }} {{ d['m']['k'] }} {{ d.nope }}| {{ d.a[4] }} {{ d.a.0 }} {{ messages[1].content }} {{ messages[-1]['role'] }}
{{ (1, 2) }} {{ (1,) }} {{ () }} {{ [1, 'a', "it's", 'q"', none] }} {{ {'a': 1, 2: [3]} }} {{ 1, 2 }}
{{ '\n\t\\\'\"\x41\u00e9\q' }} {{ ['\n\t\\\'"é\x00\x7f', '​'] }}
{{ "multi
line" }}
{% for x in words %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ x }};{% endfor %}
{% for x in words if x != 'A' %}{{ loop.index }}/{{ loop.length }}{{ x }} {% else %}none{% endfor %}{% for x in empty %}x{% else %}nothing{% endfor %}{% for x in missing %}x{% else %}undefined{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in 'né' %}[{{ c }}]{% endfor %}{% for a, b in [(1, 2), [3, 4]] %}{{ a + b }}{% endfor %}
{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %} {{ range(3) | list }} {{ range(2, 10, 3) | list }} {{ range(5, 0, -2) | list }}
{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{{ loop.cycle('a', 'b') }}{% endfor %}
{% for i in [1, [2, [3]]] recursive %}{% if i is iterable and i is not string %}({{ loop(i) }}){{ loop.depth }}{% else %}{{ i }}{{ loop.depth0 }}{% endif %}{% endfor %}
{% set x = 1 %}{% for i in range(3) %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(x=1, y='a') %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.nope }}|
{% if false %}a{% elif n == 3 %}{% set y = 5 %}b{% else %}c{% endif %}{{ y }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d) = (3, 4) %}{{ c }}{{ d }}{% set text %}in {{ n }}{% endset %}[{{ text }}]{% set up | upper | trim %} x {{ s }} {% endset %}[{{ up }}]
{% macro m(a, b=2, c=b) %}<{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}>{% endmacro %}{{ m(1) }}{{ m(1, c=5) }}{{ m(1, 2, 3, 4, 5) }}{{ m(a=1, q=7) }}{{ m() }}
{% macro r(x) %}{% if x > 0 %}{{ x }}{{ r(x - 1) }}{% endif %}{% endmacro %}{{ r(4) }}{% macro outer() %}{{ n }}{{ later }}{% endmacro %}{% set later = 9 %}{{ outer() }}
{% macro wrap(tag) %}<{{ tag }}>{{ caller() }}</{{ tag }}>{% endmacro %}{% call wrap('b') %}in{{ n }}{% endcall %}{% macro each(l) %}{% for i in l %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(i) each([1, 2]) %}[{{ i }}]{% endcall %}
{% filter upper %}a{{ s }}{% endfilter %}{% filter replace('a', 'b') | upper %}banana{% endfilter %}{% with q = 1, r = n %}{{ q }}{{ r }}{% endwith %}{{ q }}
{% raw %}{{ x }}{% if %}{% endraw %}{# comment #}a{#- c -#} b {#- c #} d
a  {%- if t -%}  b  {%- endif -%}  c {{- n -}} d
  {% if t %}
  x
  {% endif %}
  y {% if t %}z{% endif %}
 w
  {%+ if t +%}
  x
  {%+ endif %}
y
{%- for m in messages %}
    {{- m.role }}
    {%- if not loop.last %}, {% endif %}
{%- endfor %}
{{ '  x ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ s | upper }}|{{ 'ABC' | lower }}|{{ 'hello wORLD-foo bar' | title }}|{{ 'hELLO' | capitalize }}|{{ 'a.b' | replace('.', '-') }}|{{ 'aaa' | replace('a', 'b', 2) }}
{{ words | join(', ') }} {{ [1, 2] | join }} {{ rows | join('-', attribute='k') }} {{ words | first }} {{ words | last }} {{ words | length }} {{ d | length }} {{ '你好' | length }} {{ s | count }}
{{ words | sort }} {{ words | sort(case_sensitive=true) }} {{ words | sort(reverse=true) }} {{ rows | sort(attribute='k') | map(attribute='k') | list }} {{ d.m | dictsort }} {{ {'b': 1, 'a': 2} | dictsort }} {{ {'b': 1, 'a': 2} | dictsort(by='value') }}
{{ words | reverse | list }} {{ 'abc' | reverse }} {{ ['a', 'A', 'b'] | unique | list }} {{ [3, 1, 2] | min }} {{ [3, 1, 2] | max }} {{ rows | max(attribute='k') }} {{ [1, 2, 3.5] | sum }} {{ rows | sum(attribute='k') }}
{{ rows | selectattr('g', 'equalto', 'x') | list | length }} {{ rows | rejectattr('g', 'eq', 'x') | map(attribute='k') | list }} {{ [0, 1, 2, none] | select | list }} {{ [1, 2, 3, 4] | select('odd') | list }} {{ [1, 2, 3] | reject('divisibleby', 2) | list }} {{ rows | selectattr('nope') | list }} {{ rows | selectattr('k', 'gt', 1) | list | length }}
{{ words | map('upper') | list }} {{ rows | map(attribute='zz', default='d') | list }} {{ rows | groupby('g') | length }} {% for g, l in rows | groupby('g') %}{{ g }}:{{ l | length }} {% endfor %} {{ [1, 2, 3, 4, 5] | batch(2) | list }} {{ [1, 2, 3] | batch(2, 0) | list }}
{{ missing | default('x') }} {{ none_value | default('x') }} {{ none_value | default('x', true) }} {{ '' | d('y', boolean=true) }} {{ 0 | default(5) }}
{{ '12' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ 3.9 | int }} {{ '0x1f' | int(0, 16) }} {{ '3.5' | float }} {{ 'x' | float }} {{ 5 | float }} {{ 2.567 | round(2) }} {{ 2.5 | round }} {{ 3.5 | round }} {{ 2.1 | round(0, 'ceil') }} {{ -3 | abs }} {{ 3 | string }} {{ d | string }}
{{ d | tojson }} {{ d | tojson(indent=2) }} {{ words | tojson }} {{ 'é"\\/<>&' | tojson }} {{ [1.0, 1e100, true, none, {}, []] | tojson }} {{ [{}] | tojson(indent=4) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true) }} {{ 'é😀\x7f' | tojson(ensure_ascii=true) }} {{ d | tojson(separators=(',', ':')) }}
{{ 'a\nb\n\nc' | indent }}| {{ 'a\nb' | indent(2, true) }}| {{ 'a\n\nb' | indent(2, blank=true) }}| {{ 'a\nb' | indent('> ') }}| {{ 'hello big world' | truncate(9) }}| {{ 'hello big world' | truncate(9, true, leeway=0) }}| {{ '<a & b>' | escape }}| {{ 'a b/é' | urlencode }}| {{ '%s-%d' | format('x', 3) }}| {{ '%5.2f|%s' % (3.14159, none_value) }}| {{ '%s' % 'a' }}
{{ d | items | list }} {{ 'ab' | list }} {{ d | list }} {{ d.keys() | list }} {{ d.values() | list }} {{ d.get('z') }} {{ d.get('q') }} {{ d.get('q', 5) }}
{{ ' x '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ '\n\na'.lstrip('\n') }}|{{ 'a  '.rstrip() }}|{{ 'a,b,c'.split(',') }}|{{ 'a,b,c'.split(',', 1) }}|{{ 'a,b,c'.rsplit(',', 1) }}|{{ ' a  b c '.split() }}|{{ ' a  b c '.split(none, 1) }}|{{ ' a  b c '.rsplit(none, 1) }}|{{ 'a</t>b</t>c'.split('</t>')[-1] }}
{{ s.startswith('a') }} {{ s.endswith('z') }} {{ s.startswith(('x', 'a')) }} {{ s.upper() }} {{ 'ABC'.lower() }} {{ 'it\'s a'.title() }} {{ s.capitalize() }} {{ s.replace('-', '+') }} {{ s.find('b') }} {{ s.find('zz') }} {{ '你好'.find('好') }} {{ s.count('-') }} {{ s.index('b') }}
{{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ 'ab'.isalpha() }} {{ ' \t'.isspace() }} {{ ''.isspace() }} {{ 'AB'.isupper() }} {{ 'ab1'.islower() }} {{ 'a\nb\r\nc'.splitlines() }} {{ '-'.join(words) }} {{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'ab'.removeprefix('a') }} {{ 'ab'.removesuffix('b') }} {{ '5'.zfill(3) }} {{ '-5'.zfill(4) }}
{{ 'ab'.center(5, '*') }} {{ 'abc'.center(6, '*') }} {{ 'ab'.ljust(4) }}| {{ 'ab'.rjust(4) }} {{ '{} {1} {0}'.format('x', 'y') if false else '{1} {0}'.format('x', 'y') }} {{ '{}-{}'.format(1, none_value) }} {{ '{a}'.format(a=2) }} {{ 'straße'.upper() }} {{ 'ΑΣ'.lower() }} {{ 'aB'.swapcase() }}
{{ n is defined }} {{ missing is defined }} {{ missing is undefined }} {{ none_value is none }} {{ n is not none }} {{ s is string }} {{ n is string }} {{ d is mapping }} {{ words is mapping }} {{ words is sequence }} {{ s is sequence }} {{ n is iterable }} {{ n is number }} {{ t is number }} {{ f is number }} {{ t is boolean }} {{ n is integer }} {{ t is integer }} {{ f is float }}
{{ t is true }} {{ t is false }} {{ 1 is true }} {{ n is odd }} {{ n is even }} {{ 6 is divisibleby 3 }} {{ 6 is divisibleby(4) }} {{ n is eq 3 }} {{ n is equalto(4) }} {{ n is gt 2 }} {{ n is in [1, 3] }} {{ none_value is sameas none }} {{ 'AB' is upper }} {{ 'ab' is lower }} {{ d.get is callable }} {{ 'trim' is filter }}
{{ (n + 1) is odd }} {{ n + 1 is odd }} {{ 'a' ~ n is string }} {{ not n is odd }} {{ n is odd and t is true }} {{ n is defined or x is defined }} {{ 'x' if n is defined else 'y' }}
{% if messages[0].role == 'system' and messages[0]['content'] is defined %}{{ messages[0]['content'] | trim }}{% endif %}{% if messages[1:] | length > 1 %}more{% endif %}
{{ dict(a=1, b=2) }} {{ dict([('x', 1)]) }} {{ dict({'q': 1}, r=2) }} {{ namespace(a=1).a }}
{{ bos_token }}| {{ loop }}| {{ messages | map(attribute='role') | join('/') }}
{% for m in messages %}{% for c in m.content[:2] %}{{ loop.index }}{{ c }}{% endfor %}{{ loop.index }}{% endfor %}
{%- set loop_messages = messages[1:] if messages[0].role == 'system' else messages -%}{{ loop_messages | length }}
{{ words.index('A') }} {{ [1, 1].count(1) }} {{ (words + ['z'])[-1] }} {{ [[1, 2], [3]] | map('first') | list }} {{ [] | first }}|{{ 'a' if [] else 'b' }}
{{ 1_000 }} {{ 0x10 }} {{ 1.5e3 }} {{ 10 // 3 * 3 + 10 % 3 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 1 / 3 }} {{ 100000000000000000000.0 }} {{ 123456789012.5 }}
{{ raise_exception('no ' ~ n) }}
{{ missing.x }}
{{ missing + 1 }}
{{ 1 + 'a' }}
{{ 1 / 0 }}
{{ n.foo }}|{{ n['foo'] }}|{{ none_value.foo }}|{{ none_value['x'] }}|
{{ missing() }}
{{ n() }}
{{ 'a' < 1 }}
{{ words.append('x') }}
{{ missing | tojson }}
{{ 'x' | nope }}
{{ n is nope }}
{% nope %}
{% if %}x{% endif %}
{% if t %}x
{{ 'x }}
{{ ) }}
{% for x in n %}{% endfor %}
{% set n.x = 1 %}
{{ range(1000000) }}
{{ ''.__class__ }}|{{ words.__len__ }}|
{% break %}
{{ [1, 2] | join(none_value) }}{{ {} | first }}|{{ 'é' | upper }}{{ 'ǆ' | title }}
""".strip("\n")


def snippets():
    # A line that begins with white space, or follows an open block, continues the template before it.
    out, current = [], None
    for line in SNIPPETS.split("\n"):
        joined = current is not None and (
            line.startswith(" ") or line in ("y", 'line" }}') or line.startswith("  ") or current.endswith("messages %}") or line == "{%- endfor %}"
        )
        if joined:
            current += "\n" + line
        else:
            if current is not None:
                out.append(current)
            current = line
    out.append(current)
    return out + ["trailing newline\n", "two\n\n", "crlf\r\na\rb", "{% if true %}\n\n x{% endif %}\n", "{{ 'a\\\nb' }}", "{#-#}x{# {{ #}y", "{{ '{{' }}{{ '%}' }}{{ {'a': {'b': 1}}['a'] }}"]


def render(template, variables):
    try:
        return {"text": _cached_compile_jinja_template(template).render(**variables)}
    except Exception as e:  # whatever it is: the test wants an error too
        return {"error": type(e).__name__}


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city, \"now\" <b>&</b> é",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}}, "required": ["city"]},
    },
}
CALL = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "x": [1.5, None, True]}}}
U = lambda t: {"role": "user", "content": t}
A = lambda t, **more: {"role": "assistant", "content": t, **more}
S = lambda t: {"role": "system", "content": t}

CONVERSATIONS = {
    "one": ([U("Hello")], {}),
    "prompt": ([U("Hello")], {"add_generation_prompt": True}),
    "pair": ([U("What is 2+2?"), A("4.")], {}),
    "system": ([S("You are terse."), U("Hi"), A("Yes?")], {"add_generation_prompt": True}),
    "long": ([S("S"), U("a"), A("b"), U("c"), A("d"), U("e"), A("f")], {}),
    "unicode": ([U("naïve 你好 👍🏽\n\ttab"), A("— “ok” \u2028 é")], {}),
    "spaces": ([U("  lead and trail \n"), A("\n\n  x  \n")], {}),
    "think": ([U("q"), A("<think>\nhmm\n</think>\n\nanswer"), U("r"), A("<think>\nagain\n</think>\n\nb")], {}),
    "reasoning": ([U("q"), A("answer", reasoning_content="because")], {}),
    "reasoning_old": ([U("q"), A("answer", reasoning="because"), U("r"), A("b", thinking="so")], {}),
    "no_thinking": ([U("q")], {"add_generation_prompt": True, "enable_thinking": False}),
    "tools": ([S("Use tools."), U("Weather?")], {"tools": [TOOL], "add_generation_prompt": True}),
    "tool_call": ([U("Weather?"), A("", tool_calls=[CALL]), {"role": "tool", "content": "{\"t\": 3}"}, {"role": "tool", "content": "ok"}, A("3 degrees.")], {"tools": [TOOL, TOOL]}),
    "tool_text": ([U("W?"), A("Let me see.", tool_calls=[{"name": "f", "arguments": "{\"a\": 1}"}, CALL]), {"role": "tool", "content": "x"}, A("y"), U("z"), A("w")], {}),
    "empty_content": ([U(""), A("")], {}),
    "special": ([U("<|im_end|> {{ x }} {% if %}"), A("<|eot_id|>")], {}),
}


def templates():
    reader = gguf.GGUFReader(ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    config = lambda name: json.loads((CACHE / name / "tokenizer_config.json").read_text())["chat_template"]
    chatml = (
        "{%- for message in messages -%}\n{{ '<|im_start|>' + message.role + '\\n' }}\n{%- if message.role == 'assistant' -%}\n"
        "{%- generation -%}\n{{ message.content + '<|im_end|>' }}\n{%- endgeneration -%}\n{%- else -%}\n{{ message.content + '<|im_end|>' }}\n"
        "{%- endif -%}\n{{ '\\n' }}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n{{ '<|im_start|>assistant\\n' }}\n{%- endif -%}"
    )
    plain = (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'] + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{% generation %} {{ message['content'] | trim }}{{ eos_token }}{% endgeneration %}"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
    )
    return {
        "smollm2": (reader.fields["tokenizer.chat_template"].contents(), {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}),
        "llama3": (config("llama3"), {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}),
        "qwen3": (config("qwen3"), {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}),
        "chatml_generation": (chatml, {}),
        "inst_generation": (plain, {"bos_token": "<s>", "eos_token": "</s>"}),
    }


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")
    print(path, path.stat().st_size, "bytes")


def main():
    cases = [{"template": t, **render(t, VARS)} for t in snippets()]
    write(ROOT / "tokenizer/jinja/testdata/jinja.json", {"versions": VERSIONS, "vars": VARS, "cases": cases})
    rendered = {}
    for name, (template, special) in templates().items():
        rendered[name] = {"template": template, "special": special, "cases": []}
        for case, (messages, options) in CONVERSATIONS.items():
            options = dict(options)
            tools = options.pop("tools", None)
            prompt = options.pop("add_generation_prompt", False)
            entry = {"name": case, "messages": messages, "tools": tools, "add_generation_prompt": prompt, "options": options}
            try:
                text, spans = render_jinja_template(
                    conversations=[messages], tools=tools, chat_template=template, add_generation_prompt=prompt,
                    return_assistant_tokens_mask="generation" in name, **special, **options,
                )
                entry["text"] = text[0]
                if spans:  # in code points
                    entry["generated"] = [text[0][a:b] for a, b in spans[0]]
            except Exception as e:
                entry["error"] = type(e).__name__
            rendered[name]["cases"].append(entry)
    write(ROOT / "tokenizer/testdata/chat.json", {"versions": VERSIONS, "templates": rendered})


if __name__ == "__main__":
    main()
