package jinja

import (
	"errors"
	"fmt"
)

var errDeep = errors.New("nested too deep")

// parser makes a tree of tokens: jinja2's grammar, statement by statement.
type parser struct {
	tokens     []token
	pos        int
	depth      int
	loops      int // loops around the current statement, for break and continue
	generation bool
}

func (p *parser) peek() token { return p.tokens[p.pos] }

func (p *parser) take() token {
	t := p.tokens[p.pos]
	if t.kind != endToken {
		p.pos++
	}
	return t
}

// is tells whether the next token is this operator or name.
func (p *parser) is(kind tokenKind, text string) bool {
	t := p.peek()
	return t.kind == kind && t.text == text
}

func (p *parser) op(text string) bool   { return p.is(operatorToken, text) }
func (p *parser) word(text string) bool { return p.is(nameToken, text) }

// accept takes the next token if it is this one.
func (p *parser) accept(kind tokenKind, text string) bool {
	if p.is(kind, text) {
		p.pos++
		return true
	}
	return false
}

func (p *parser) expect(kind tokenKind, text string) error {
	if !p.accept(kind, text) {
		return p.fail("want %q, got %v", text, p.peek())
	}
	return nil
}

func (p *parser) name() (string, error) {
	t := p.peek()
	if t.kind != nameToken {
		return "", p.fail("want a name, got %v", t)
	}
	p.pos++
	return t.text, nil
}

func (p *parser) fail(format string, a ...any) error {
	return &lineError{p.peek().line, fmt.Errorf(format, a...)}
}

// enter counts nesting; the caller defers leave.
func (p *parser) enter() error {
	if p.depth++; p.depth > maxNesting {
		return p.fail("%w", errDeep)
	}
	return nil
}

func (p *parser) leave() { p.depth-- }

func (p *parser) template() ([]node, error) {
	body, _, err := p.body()
	return body, err
}

// body parses up to one of the ending tags, whose name it returns and takes; no
// ends means up to the end of the template.
func (p *parser) body(ends ...string) (body []node, end string, err error) {
	if err := p.enter(); err != nil {
		return nil, "", err
	}
	defer p.leave()
	for {
		t := p.take()
		switch t.kind {
		case endToken:
			if len(ends) > 0 {
				return nil, "", p.fail("the template ends where %q is wanted", ends[len(ends)-1])
			}
			return body, "", nil
		case textToken:
			body = append(body, &textNode{t.text})
		case openPrint:
			e, err := p.tuple(true)
			if err != nil {
				return nil, "", err
			}
			if err := p.expect(closePrint, "}}"); err != nil {
				return nil, "", err
			}
			body = append(body, &printNode{e, t.line})
		default: // openBlock: inside tags nothing else is at this level
			name, err := p.name()
			if err != nil {
				return nil, "", err
			}
			for _, e := range ends {
				if name == e {
					return body, e, nil
				}
			}
			n, err := p.statement(name, t.line)
			if err != nil {
				return nil, "", err
			}
			body = append(body, n)
		}
	}
}

func (p *parser) close() error { return p.expect(closeBlock, "%}") }

// block parses %} body {% end %}.
func (p *parser) block(end string) ([]node, error) {
	if err := p.close(); err != nil {
		return nil, err
	}
	body, _, err := p.body(end)
	if err != nil {
		return nil, err
	}
	return body, p.close()
}

func (p *parser) statement(name string, line int) (node, error) {
	switch name {
	case "if":
		return p.ifStatement()
	case "for":
		return p.forStatement(line)
	case "set":
		return p.setStatement(line)
	case "macro":
		return p.macroStatement()
	case "call":
		return p.callStatement(line)
	case "filter":
		f, err := p.filters(nil, true)
		if err != nil {
			return nil, err
		}
		body, err := p.block("endfilter")
		return &filterNode{f, body, line}, err
	case "with":
		return p.withStatement(line)
	case "generation":
		p.generation = true
		body, err := p.block("endgeneration")
		return &generationNode{body, line}, err
	case "break", "continue":
		if p.loops == 0 {
			return nil, p.fail("%s outside a loop", name)
		}
		return &jumpNode{name == "break"}, p.close()
	}
	return nil, &lineError{line, fmt.Errorf("unknown tag %q", clip(name))}
}

func (p *parser) ifStatement() (node, error) {
	n := &ifNode{}
	for {
		test, err := p.tuple(true)
		if err != nil {
			return nil, err
		}
		if err := p.close(); err != nil {
			return nil, err
		}
		body, end, err := p.body("elif", "else", "endif")
		if err != nil {
			return nil, err
		}
		n.tests, n.bodies = append(n.tests, test), append(n.bodies, body)
		switch end {
		case "elif":
			continue
		case "else":
			n.orElse, err = p.block("endif")
			return n, err
		}
		return n, p.close()
	}
}

func (p *parser) forStatement(line int) (node, error) {
	n := &forNode{line: line}
	var err error
	if n.target, err = p.target(); err != nil {
		return nil, err
	}
	if err = p.expect(nameToken, "in"); err != nil {
		return nil, err
	}
	if n.over, err = p.tuple(false); err != nil {
		return nil, err
	}
	if p.accept(nameToken, "if") {
		if n.filter, err = p.expression(); err != nil {
			return nil, err
		}
	}
	n.recursive = p.accept(nameToken, "recursive")
	if err = p.close(); err != nil {
		return nil, err
	}
	p.loops++
	body, end, err := p.body("else", "endfor")
	p.loops--
	if err != nil {
		return nil, err
	}
	n.body = body
	if end == "else" {
		n.orElse, err = p.block("endfor")
		return n, err
	}
	return n, p.close()
}

// target parses what is assigned to: names, in parentheses or not.
func (p *parser) target() (target, error) {
	var names target
	parens := p.accept(operatorToken, "(")
	for {
		name, err := p.name()
		if err != nil {
			return target{}, err
		}
		names.names = append(names.names, name)
		if !p.accept(operatorToken, ",") {
			break
		}
		names.tuple = true
		if p.word("in") || p.op(")") || p.op("=") {
			break
		}
	}
	if parens {
		return names, p.expect(operatorToken, ")")
	}
	return names, nil
}

func (p *parser) setStatement(line int) (node, error) {
	n := &setNode{line: line}
	var err error
	if n.target, err = p.target(); err != nil {
		return nil, err
	}
	if p.accept(operatorToken, ".") {
		if n.attr, err = p.name(); err != nil {
			return nil, err
		}
	}
	if p.accept(operatorToken, "=") {
		if n.value, err = p.tuple(true); err != nil {
			return nil, err
		}
		return n, p.close()
	}
	if p.op("|") {
		if n.filter, err = p.filters(nil, false); err != nil {
			return nil, err
		}
	}
	n.body, err = p.block("endset")
	return n, err
}

// parameters parses a macro's or a call block's, after the "(".
func (p *parser) parameters(m *macroNode) error {
	for !p.accept(operatorToken, ")") {
		if len(m.params) > 0 {
			if err := p.expect(operatorToken, ","); err != nil {
				return err
			}
			if p.accept(operatorToken, ")") {
				break
			}
		}
		name, err := p.name()
		if err != nil {
			return err
		}
		var value expr
		if p.accept(operatorToken, "=") {
			if value, err = p.expression(); err != nil {
				return err
			}
		} else if len(m.params) > 0 && m.params[len(m.params)-1].value != nil {
			return p.fail("parameter %q without a default after one with", name)
		}
		m.params = append(m.params, parameter{name, value})
	}
	return nil
}

// apart parses a body in which break and continue of loops around it mean nothing.
func (p *parser) apart(end string) ([]node, error) {
	loops := p.loops
	p.loops = 0
	defer func() { p.loops = loops }()
	return p.block(end)
}

func (p *parser) macroStatement() (node, error) {
	m := &macroNode{}
	var err error
	if m.name, err = p.name(); err != nil {
		return nil, err
	}
	if err = p.expect(operatorToken, "("); err != nil {
		return nil, err
	}
	if err = p.parameters(m); err != nil {
		return nil, err
	}
	m.body, err = p.apart("endmacro")
	return m, err
}

func (p *parser) callStatement(line int) (node, error) {
	caller := &macroNode{name: "caller"}
	if p.accept(operatorToken, "(") {
		if err := p.parameters(caller); err != nil {
			return nil, err
		}
	}
	e, err := p.expression()
	if err != nil {
		return nil, err
	}
	call, ok := e.(*callExpr)
	if !ok {
		return nil, p.fail("want a call after {%% call %%}")
	}
	caller.body, err = p.apart("endcall")
	return &callNode{call, caller, line}, err
}

func (p *parser) withStatement(line int) (node, error) {
	n := &withNode{line: line}
	for !p.is(closeBlock, "%}") {
		if len(n.names) > 0 {
			if err := p.expect(operatorToken, ","); err != nil {
				return nil, err
			}
		}
		name, err := p.name()
		if err != nil {
			return nil, err
		}
		if err := p.expect(operatorToken, "="); err != nil {
			return nil, err
		}
		value, err := p.expression()
		if err != nil {
			return nil, err
		}
		n.names, n.values = append(n.names, name), append(n.values, value)
	}
	var err error
	n.body, err = p.block("endwith")
	return n, err
}
