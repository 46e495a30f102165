package jinja

// node is a statement: it writes to the state's output.
type node interface {
	run(s *state) error
}

// expr is an expression.
type expr interface {
	eval(s *state) (any, error)
}

type (
	textNode  struct{ text string }
	printNode struct {
		e    expr
		line int
	}
	ifNode struct {
		tests  []expr
		bodies [][]node
		orElse []node
	}
	forNode struct {
		target       target
		over, filter expr
		body, orElse []node
		recursive    bool
		line         int
	}
	// target is what is assigned to: one name, or several that a sequence is
	// taken apart into.
	target struct {
		names []string
		tuple bool
	}
	setNode struct {
		target target
		attr   string // of a namespace
		value  expr   // nil: the body's text
		filter expr   // applied to that text
		body   []node
		line   int
	}
	macroNode struct {
		name   string
		params []parameter
		body   []node
	}
	parameter struct {
		name  string
		value expr // the default, or nil
	}
	callNode struct {
		call   *callExpr
		caller *macroNode
		line   int
	}
	filterNode struct {
		filter expr
		body   []node
		line   int
	}
	withNode struct {
		names  []string
		values []expr
		body   []node
		line   int
	}
	generationNode struct {
		body []node
		line int
	}
	jumpNode struct{ leave bool } // break, or continue
)

type (
	constExpr struct{ value any }
	nameExpr  struct {
		name string
		line int
	}
	listExpr struct {
		items []expr
		tuple bool
		line  int
	}
	dictExpr struct {
		keys, vals []expr
		line       int
	}
	attrExpr struct {
		of   expr
		name string
		line int
	}
	itemExpr struct {
		of, index expr
		line      int
	}
	sliceExpr struct {
		of, from, to, step expr
		line               int
	}
	callExpr struct {
		of   expr
		args argExprs
		line int
	}
	argExprs struct {
		positional     []expr
		names          []string
		named          []expr
		star, starStar expr
	}
	filterExpr struct {
		of     expr // nil: the text of the block
		name   string
		filter filterFunc
		args   argExprs
		line   int
	}
	testExpr struct {
		of      expr
		name    string
		test    testFunc
		args    argExprs
		negated bool
		line    int
	}
	condExpr struct {
		test, then, orElse expr // orElse nil: undefined
		line               int
	}
	logicExpr struct {
		left, right expr
		or          bool
		line        int
	}
	notExpr struct {
		of   expr
		line int
	}
	signExpr struct {
		of       expr
		negative bool
		line     int
	}
	compareExpr struct {
		first expr
		ops   []string
		rest  []expr
		line  int
	}
	binaryExpr struct {
		left, right expr
		op          string
		line        int
	}
)
