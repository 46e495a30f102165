package job

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

const (
	// maxFileBytes bounds the time as well: the parser's is quadratic in some texts, seconds at this length.
	maxFileBytes = 64 << 10
	// maxDepth bounds nesting: the document itself needs 4 levels.
	maxDepth = 32
)

// kind is what a node is.
type kind uint8

const (
	null kind = iota
	scalar
	list
	mapping
)

// node is a value of the document, whether a file or a --set option gave it.
type node struct {
	kind   kind
	at     position
	text   string // of a scalar
	quoted bool   // a scalar that can only be a string
	items  []*node
	fields []field
}

type field struct {
	name  string
	at    position // of the key
	value *node
}

func (n *node) field(name string) *field {
	for i := range n.fields {
		if n.fields[i].name == name {
			return &n.fields[i]
		}
	}
	return nil
}

// describe is the value as an error message shows it.
func (n *node) describe() string {
	switch n.kind {
	case null:
		return "null"
	case list:
		return "a list"
	case mapping:
		return "a section"
	}
	if n.quoted {
		return fmt.Sprintf("%.60q", n.text)
	}
	return fmt.Sprintf("%.60s", n.text)
}

// reader turns YAML text into nodes and collects what is wrong on the way.
type reader struct {
	source string
	inFile bool // give lines and columns
	order  int
	faults Faults
}

// read parses text; nil when it is not YAML, which is then one fault.
func (r *reader) read(text []byte) (root *node) {
	start := r.place(1, 1)
	fail := func(at position, format string, args ...any) *node {
		r.faults = append(r.faults, Fault{at: at, Message: fmt.Sprintf(format, args...)})
		return nil
	}
	if len(text) > maxFileBytes {
		return fail(start, "%d bytes: want at most %d", len(text), maxFileBytes)
	}
	if !utf8.Valid(text) {
		return fail(start, "not UTF-8 text")
	}
	if i := slices.IndexFunc(text, func(b byte) bool { return b < ' ' && b != '\n' && b != '\r' && b != '\t' }); i >= 0 {
		line := 1 + strings.Count(string(text[:i]), "\n")
		return fail(r.place(line, i-strings.LastIndexByte(string(text[:i]), '\n')), "control character %#02x: not YAML text", text[i])
	}
	// The parser is not ours and the text is from outside: a panic in it is a fault of the text, not of the program.
	defer func() {
		if p := recover(); p != nil {
			root = fail(start, "not valid YAML: %v", p)
		}
	}()
	tokens := lexer.Tokenize(string(text))
	if tk := tooDeep(tokens); tk != nil {
		return fail(r.tokenPlace(tk), "nested deeper than %d levels", maxDepth)
	}
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var syntax yaml.Error
		if errors.As(err, &syntax) && syntax.GetToken() != nil {
			return fail(r.tokenPlace(syntax.GetToken()), "not valid YAML: %s", syntax.GetMessage())
		}
		return fail(start, "not valid YAML: %v", err)
	}
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if root != nil {
			return fail(r.tokenPlace(doc.Body.GetToken()), "a second document: want one")
		}
		root = r.node(doc.Body, "")
	}
	if root == nil {
		root = &node{kind: null, at: start}
	}
	return root
}

// tooDeep finds where nesting passes maxDepth, before the parser recurses: brackets, indentation and indicators that nest on one line.
func tooDeep(tokens token.Tokens) *token.Token {
	brackets, line, onLine := 0, 0, 0
	var indents []int
	for _, tk := range tokens {
		switch tk.Type {
		case token.MappingStartType, token.SequenceStartType:
			brackets++
		case token.MappingEndType, token.SequenceEndType:
			brackets--
		}
		if tk.Position.Line != line {
			line, onLine = tk.Position.Line, 0
			if brackets == 0 {
				for len(indents) > 0 && indents[len(indents)-1] >= tk.Position.Column {
					indents = indents[:len(indents)-1]
				}
				indents = append(indents, tk.Position.Column)
			}
		}
		switch tk.Type {
		case token.SequenceEntryType, token.MappingKeyType, token.TagType, token.AnchorType:
			onLine++
		}
		if brackets+len(indents)+onLine > maxDepth {
			return tk
		}
	}
	return nil
}

func (r *reader) place(line, col int) position {
	if !r.inFile {
		line, col = 0, 0
	}
	return position{source: r.source, line: line, col: col, order: r.order}
}

func (r *reader) tokenPlace(tk *token.Token) position {
	return r.place(tk.Position.Line, tk.Position.Column)
}

// node converts the parser's tree to ours.
func (r *reader) node(n ast.Node, path string) *node {
	at := r.tokenPlace(n.GetToken())
	out := &node{at: at}
	switch n := n.(type) {
	case *ast.NullNode:
		out.kind = null
	case *ast.MappingNode:
		out.kind = mapping
		if n.Start != nil {
			out.at = r.tokenPlace(n.Start)
		}
		for _, v := range n.Values {
			r.add(out, v, path)
		}
	case *ast.MappingValueNode:
		out.kind = mapping
		out.at = r.tokenPlace(n.Key.GetToken())
		r.add(out, n, path)
	case *ast.SequenceNode:
		out.kind = list
		for i, v := range n.Values {
			out.items = append(out.items, r.node(v, fmt.Sprintf("%s[%d]", path, i)))
		}
	case *ast.LiteralNode:
		out.kind, out.text, out.quoted = scalar, n.Value.Value, true
	case *ast.StringNode:
		out.kind, out.text = scalar, n.Value
		out.quoted = n.Token.Type == token.SingleQuoteType || n.Token.Type == token.DoubleQuoteType
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		out.kind, out.text = scalar, n.GetToken().Value
	default: // anchors, aliases, tags, merge keys, directives
		r.fault(at, path, "%s: anchors, aliases, tags and merge keys are not part of a job file", n.Type())
	}
	return out
}

func (r *reader) add(to *node, v *ast.MappingValueNode, path string) {
	key := v.Key.GetToken()
	at := r.tokenPlace(key)
	if _, plain := v.Key.(*ast.StringNode); !plain {
		r.fault(at, path, "key %.60q: want a plain name", v.Key.String())
		return
	}
	name := key.Value
	if first := to.field(name); first != nil {
		r.fault(at, join(path, name), "written twice, first at %s", first.at)
		return
	}
	to.fields = append(to.fields, field{name: name, at: at, value: r.node(v.Value, join(path, name))})
}

func (r *reader) fault(at position, path, format string, args ...any) {
	r.faults = append(r.faults, Fault{at: at, Path: path, Message: fmt.Sprintf(format, args...)})
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
