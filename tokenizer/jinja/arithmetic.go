package jinja

import (
	"errors"
	"fmt"
	"math"
	"strings"
)

func (e *binaryExpr) eval(s *state) (any, error) {
	a, err := s.eval(e.left)
	if err != nil {
		return nil, err
	}
	b, err := s.eval(e.right)
	if err != nil {
		return nil, err
	}
	v, err := s.binary(e.op, a, b)
	return v, at(e.line, err)
}

func (s *state) binary(op string, a, b any) (any, error) {
	if op == "~" {
		x, err := s.str(a)
		if err != nil {
			return nil, err
		}
		y, err := s.str(b)
		if err != nil {
			return nil, err
		}
		return x + y, s.made(len(x) + len(y))
	}
	for _, v := range [...]any{a, b} {
		if u, ok := v.(undefined); ok {
			return nil, u.err()
		}
	}
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok && op == "+" {
			return x + y, s.made(len(x) + len(y))
		}
		if op == "%" {
			return s.percent(x, b)
		}
	case *List:
		if y, ok := b.(*List); ok && op == "+" && x.tuple == y.tuple {
			return &List{append(x.Items[:len(x.Items):len(x.Items)], y.Items...), x.tuple}, s.made(16 * (len(x.Items) + len(y.Items)))
		}
	}
	if op == "*" {
		if v, ok, err := s.repeat(a, b); ok || err != nil {
			return v, err
		}
		if v, ok, err := s.repeat(b, a); ok || err != nil {
			return v, err
		}
	}
	if i, ok := integer(a); ok {
		if j, ok := integer(b); ok && (op != "**" || j >= 0) {
			return intMath(op, i, j)
		}
	}
	x, ok := float(a)
	y, ok2 := float(b)
	if !ok || !ok2 {
		return nil, fmt.Errorf("%s between a %s and a %s", op, kind(a), kind(b))
	}
	return floatMath(op, x, y)
}

// repeat is a string or list times a number.
func (s *state) repeat(of, times any) (any, bool, error) {
	n, ok := integer(times)
	if !ok {
		return nil, false, nil
	}
	n = max(n, 0)
	var bytes int
	switch v := of.(type) {
	case string:
		bytes = len(v)
	case *List:
		bytes = 16 * len(v.Items)
	default:
		return nil, false, nil
	}
	if bytes > 0 && n > int64(s.limit/bytes) {
		return nil, true, errBytes
	}
	if err := s.made(bytes * int(n)); err != nil {
		return nil, true, err
	}
	if v, ok := of.(string); ok {
		return strings.Repeat(v, int(n)), true, nil
	}
	l := &List{tuple: of.(*List).tuple}
	for range int(n) {
		if len(of.(*List).Items) == 0 {
			break
		}
		l.Items = append(l.Items, of.(*List).Items...)
	}
	return l, true, nil
}

var (
	errZero = errors.New("division by zero")
	errBig  = errors.New("an integer beyond 64 bits")
)

// intMath is arithmetic of integers; what leaves 64 bits is refused, since
// Python's would not wrap.
func intMath(op string, a, b int64) (any, error) {
	if b == 0 && (op == "/" || op == "//" || op == "%") {
		return nil, errZero
	}
	var c int64
	ok := true
	switch op {
	case "+":
		c = a + b
		ok = (c > a) == (b > 0)
	case "-":
		c = a - b
		ok = (c < a) == (b > 0)
	case "*":
		c = a * b
		ok = a == 0 || c/a == b && !(a == -1 && b == math.MinInt64)
	case "/":
		return float64(a) / float64(b), nil
	case "//":
		if ok = a != math.MinInt64 || b != -1; ok {
			if c = a / b; a%b != 0 && (a < 0) != (b < 0) {
				c--
			}
		}
	case "%":
		if b != -1 { // whose remainder is 0, and which the processor may refuse
			if c = a % b; c != 0 && (c < 0) != (b < 0) {
				c += b
			}
		}
	case "**":
		c = 1
		for n := b; n > 0 && ok; n-- {
			if a == 0 || a == 1 || a == -1 { // no overflow, and perhaps many rounds
				if a == 0 || n%2 == 1 {
					c = a
				}
				break
			}
			p := c * a
			ok = p/a == c
			c = p
		}
	}
	if !ok {
		return nil, errBig
	}
	return c, nil
}

func floatMath(op string, a, b float64) (any, error) {
	if b == 0 && (op == "/" || op == "//" || op == "%") {
		return nil, errZero
	}
	switch op {
	case "+":
		return a + b, nil
	case "-":
		return a - b, nil
	case "*":
		return a * b, nil
	case "/":
		return a / b, nil
	case "//":
		return math.Floor(a / b), nil
	case "%":
		c := math.Mod(a, b)
		if c != 0 && (c < 0) != (b < 0) {
			c += b
		}
		return c, nil
	}
	return math.Pow(a, b), nil
}
