package jinja

// expression parses a conditional expression: the loosest binding.
func (p *parser) expression() (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	e, err := p.or()
	for err == nil && p.word("if") {
		line := p.take().line
		c := &condExpr{then: e, line: line}
		if c.test, err = p.or(); err != nil {
			return nil, err
		}
		if p.accept(nameToken, "else") {
			if c.orElse, err = p.expression(); err != nil {
				return nil, err
			}
		}
		e = c
	}
	return e, err
}

// tuple parses expressions with commas between them: one, or a tuple. Without
// conditional, an "if" ends it, as after for ... in.
func (p *parser) tuple(conditional bool) (expr, error) {
	one := p.or
	if conditional {
		one = p.expression
	}
	e, err := one()
	if err != nil || !p.op(",") {
		return e, err
	}
	list := &listExpr{items: []expr{e}, tuple: true}
	for p.accept(operatorToken, ",") {
		if t := p.peek(); t.kind == closePrint || t.kind == closeBlock || p.op(")") {
			break
		}
		if e, err = one(); err != nil {
			return nil, err
		}
		list.items = append(list.items, e)
	}
	return list, nil
}

func (p *parser) or() (expr, error)  { return p.logic("or", p.and) }
func (p *parser) and() (expr, error) { return p.logic("and", p.not) }

func (p *parser) logic(word string, next func() (expr, error)) (expr, error) {
	e, err := next()
	for err == nil && p.word(word) {
		line := p.take().line
		var right expr
		right, err = next()
		e = &logicExpr{e, right, word == "or", line}
	}
	return e, err
}

func (p *parser) not() (expr, error) {
	if !p.word("not") {
		return p.compare()
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	line := p.take().line
	e, err := p.not()
	return &notExpr{e, line}, err
}

func (p *parser) compare() (expr, error) {
	e, err := p.sum()
	if err != nil {
		return nil, err
	}
	c := &compareExpr{first: e, line: p.peek().line}
	for {
		op := ""
		switch t := p.peek(); {
		case t.kind == operatorToken && (t.text == "==" || t.text == "!=" || t.text == "<" || t.text == "<=" || t.text == ">" || t.text == ">="):
			op = t.text
			p.take()
		case p.word("in"):
			op = "in"
			p.take()
		case p.word("not") && p.tokens[p.pos+1].kind == nameToken && p.tokens[p.pos+1].text == "in":
			op = "not in"
			p.pos += 2
		}
		if op == "" {
			break
		}
		right, err := p.sum()
		if err != nil {
			return nil, err
		}
		c.ops, c.rest = append(c.ops, op), append(c.rest, right)
	}
	if len(c.ops) == 0 {
		return e, nil
	}
	return c, nil
}

func (p *parser) sum() (expr, error)    { return p.binary(p.concat, "+", "-") }
func (p *parser) concat() (expr, error) { return p.binary(p.product, "~") }
func (p *parser) product() (expr, error) {
	return p.binary(p.power, "*", "/", "//", "%")
}

func (p *parser) power() (expr, error) {
	return p.binary(func() (expr, error) { return p.unary(true) }, "**")
}

func (p *parser) binary(next func() (expr, error), ops ...string) (expr, error) {
	e, err := next()
again:
	for err == nil {
		for _, op := range ops {
			if p.op(op) {
				line := p.take().line
				var right expr
				right, err = next()
				e = &binaryExpr{e, right, op, line}
				continue again
			}
		}
		break
	}
	return e, err
}

// unary parses a sign, or an operand with all that may follow it. Filters bind
// looser than a sign: -x|abs is (-x)|abs.
func (p *parser) unary(filters bool) (expr, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	var e expr
	var err error
	if t := p.peek(); p.op("-") || p.op("+") {
		p.take()
		if e, err = p.unary(false); err == nil {
			e = &signExpr{e, t.text == "-", t.line}
		}
	} else {
		e, err = p.primary()
	}
	if err == nil {
		e, err = p.postfix(e)
	}
	if err == nil && filters {
		e, err = p.filters(e, false)
	}
	return e, err
}

func (p *parser) primary() (expr, error) {
	t := p.take()
	switch t.kind {
	case nameToken:
		switch t.text {
		case "true", "True":
			return &constExpr{true}, nil
		case "false", "False":
			return &constExpr{false}, nil
		case "none", "None":
			return &constExpr{nil}, nil
		}
		return &nameExpr{t.text, t.line}, nil
	case stringToken:
		text := t.text
		for p.peek().kind == stringToken {
			text += p.take().text
		}
		return &constExpr{text}, nil
	case numberToken:
		return &constExpr{t.value}, nil
	case operatorToken:
		switch t.text {
		case "(":
			if p.accept(operatorToken, ")") {
				return &listExpr{tuple: true, line: t.line}, nil
			}
			e, err := p.tuple(true)
			if err != nil {
				return nil, err
			}
			return e, p.expect(operatorToken, ")")
		case "[":
			return p.list(t.line)
		case "{":
			return p.dict(t.line)
		}
	}
	p.pos-- // so that the error names this token's line; it was not the end's
	if t.kind == endToken {
		p.pos++
	}
	return nil, p.fail("unexpected %v", t)
}

func (p *parser) list(line int) (expr, error) {
	l := &listExpr{line: line}
	for !p.accept(operatorToken, "]") {
		if len(l.items) > 0 {
			if err := p.expect(operatorToken, ","); err != nil {
				return nil, err
			}
			if p.accept(operatorToken, "]") {
				break
			}
		}
		e, err := p.expression()
		if err != nil {
			return nil, err
		}
		l.items = append(l.items, e)
	}
	return l, nil
}

func (p *parser) dict(line int) (expr, error) {
	d := &dictExpr{line: line}
	for !p.accept(operatorToken, "}") {
		if len(d.keys) > 0 {
			if err := p.expect(operatorToken, ","); err != nil {
				return nil, err
			}
			if p.accept(operatorToken, "}") {
				break
			}
		}
		k, err := p.expression()
		if err != nil {
			return nil, err
		}
		if err := p.expect(operatorToken, ":"); err != nil {
			return nil, err
		}
		v, err := p.expression()
		if err != nil {
			return nil, err
		}
		d.keys, d.vals = append(d.keys, k), append(d.vals, v)
	}
	return d, nil
}

func (p *parser) postfix(e expr) (expr, error) {
	for {
		t := p.peek()
		var err error
		switch {
		case p.accept(operatorToken, "."):
			k := p.take()
			switch k.kind {
			case nameToken:
				e = &attrExpr{e, k.text, t.line}
			case numberToken:
				e = &itemExpr{e, &constExpr{k.value}, t.line}
			default:
				return nil, p.fail("want a name after the point, got %v", k)
			}
		case p.accept(operatorToken, "["):
			e, err = p.subscript(e, t.line)
		case p.op("("):
			e, err = p.call(e)
		default:
			return e, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// subscript parses x[i] and x[from:to:step], after the "[".
func (p *parser) subscript(e expr, line int) (expr, error) {
	s := &sliceExpr{of: e, line: line}
	colons := 0
	for !p.accept(operatorToken, "]") {
		if p.accept(operatorToken, ":") {
			if colons++; colons > 2 {
				return nil, p.fail("a slice has at most two colons")
			}
			continue
		}
		part := [...]*expr{&s.from, &s.to, &s.step}[colons]
		if *part != nil {
			return nil, p.fail("want %q, got %v", "]", p.peek())
		}
		var err error
		if *part, err = p.expression(); err != nil {
			return nil, err
		}
	}
	if colons > 0 {
		return s, nil
	}
	if s.from == nil {
		return nil, p.fail("want an index")
	}
	return &itemExpr{e, s.from, line}, nil
}

func (p *parser) call(of expr) (expr, error) {
	c := &callExpr{of: of, line: p.peek().line}
	var err error
	c.args, err = p.arguments()
	return c, err
}

// arguments parses (a, b, c=d, *e, **f).
func (p *parser) arguments() (a argExprs, err error) {
	if err = p.expect(operatorToken, "("); err != nil {
		return a, err
	}
	for n := 0; !p.accept(operatorToken, ")"); n++ {
		if n > 0 {
			if err = p.expect(operatorToken, ","); err != nil {
				return a, err
			}
			if p.accept(operatorToken, ")") {
				break
			}
		}
		switch {
		case p.accept(operatorToken, "*"):
			a.star, err = p.expression()
		case p.accept(operatorToken, "**"):
			a.starStar, err = p.expression()
		case p.peek().kind == nameToken && p.tokens[p.pos+1].kind == operatorToken && p.tokens[p.pos+1].text == "=":
			name := p.take().text
			p.take()
			var v expr
			v, err = p.expression()
			a.names, a.named = append(a.names, name), append(a.named, v)
		default:
			var v expr
			v, err = p.expression()
			if len(a.names) > 0 {
				return a, p.fail("a positional argument after a named one")
			}
			a.positional = append(a.positional, v)
		}
		if err != nil {
			return a, err
		}
	}
	return a, nil
}

// filters parses | filter, is test and calls after e. With start, the first
// filter's name comes without a bar, as in {% filter upper %}.
func (p *parser) filters(e expr, start bool) (expr, error) {
	for {
		t := p.peek()
		var err error
		switch {
		case start || p.accept(operatorToken, "|"):
			start = false
			e, err = p.filter(e, t.line)
		case e != nil && p.word("is"):
			p.take()
			e, err = p.test(e, t.line)
		case e != nil && p.op("("):
			e, err = p.call(e)
		default:
			return e, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (p *parser) dotted() (string, error) {
	name, err := p.name()
	for err == nil && p.accept(operatorToken, ".") {
		var more string
		more, err = p.name()
		name += "." + more
	}
	return name, err
}

func (p *parser) filter(e expr, line int) (expr, error) {
	name, err := p.dotted()
	if err != nil {
		return nil, err
	}
	f, ok := filters[name]
	if !ok {
		return nil, p.fail("no filter named %q", clip(name))
	}
	n := &filterExpr{of: e, name: name, filter: f, line: line}
	if p.op("(") {
		n.args, err = p.arguments()
	}
	return n, err
}

func (p *parser) test(e expr, line int) (expr, error) {
	negated := p.accept(nameToken, "not")
	name, err := p.dotted()
	if err != nil {
		return nil, err
	}
	f, ok := tests[name]
	if !ok {
		return nil, p.fail("no test named %q", clip(name))
	}
	n := &testExpr{of: e, name: name, test: f, negated: negated, line: line}
	t := p.peek()
	switch {
	case p.op("("):
		n.args, err = p.arguments()
	case t.kind == stringToken, t.kind == numberToken, p.op("["), p.op("{"),
		t.kind == nameToken && t.text != "else" && t.text != "or" && t.text != "and" && t.text != "if" && t.text != "is" &&
			t.text != "in" && t.text != "not" && t.text != "recursive":
		var arg expr
		if arg, err = p.primary(); err == nil {
			arg, err = p.postfix(arg)
		}
		n.args.positional = []expr{arg}
	}
	return n, err
}
