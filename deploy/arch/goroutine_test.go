package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRequireStaysOnTheTestsGoroutine: t.FailNow ends the goroutine that calls
// it. On another one than the test's the test goes on, and hangs or passes. It
// looks at function literals that something else runs, and at the functions and
// methods of the package which those call. It knows no types: a method counts
// where all methods of its name in the package end their goroutine. Helpers of
// other packages, and methods of a fake that a server calls, it does not see.
func TestRequireStaysOnTheTestsGoroutine(t *testing.T) {
	for dir, p := range testPackages(t) {
		for _, file := range p.files {
			for _, lit := range elsewhere(file) {
				for _, call := range p.fatal(lit) {
					t.Errorf("%s/%s: %s off the test's goroutine", strings.TrimPrefix(dir, "../../"),
						place(p.fset, call.at), call.name)
				}
			}
		}
	}
}

// The check itself: each of the lines marked bad is found, and no other.
func TestGoroutineCheckCatches(t *testing.T) {
	const source = `package x
func f(t *testing.T) {
	require.NoError(t, err)
	go func() {
		require.NoError(t, err) // bad
		assert.NoError(t, err)
	}()
	go helper(t) // bad
	wg.Go(func() { t.Fatal("x") }) // bad
	wg.Go(func() { harmless(t) })
	g.Go(func() error { helper(t); return nil }) // bad
	go x.must() // bad
	go x.ambiguous()
	http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { require.True(t, ok) }) // bad
	time.AfterFunc(d, func() { t.FailNow() }) // bad
	require.Eventually(t, func() bool { require.True(t, ok); return true }, d, d) // bad
	require.EventuallyWithT(t, func(c *assert.CollectT) { require.True(c, ok) }, d, d)
	t.Run("sub", func(t *testing.T) { require.True(t, ok) })
	go func() { t.Run("sub", func(t *testing.T) { require.True(t, ok) }) }()
	go func() { log.Fatal("x") }()
}
func helper(t *testing.T) { deeper(t) }
func deeper(t *testing.T) { t.Helper(); require.True(t, ok) }
func (x x) must() { require.True(x.t, ok) }
func (x x) ambiguous() { require.True(x.t, ok) }
func (y y) ambiguous() {}
func harmless(t *testing.T) { t.Log("x") }
`
	p := &testPackage{fset: token.NewFileSet(), funcs: map[string][]*ast.FuncDecl{}, ends: map[string]bool{}}
	f, err := parser.ParseFile(p.fset, "x_test.go", source, parser.SkipObjectResolution)
	require.NoError(t, err)
	p.add(f)
	got := map[int]bool{}
	for _, lit := range elsewhere(f) {
		for _, call := range p.fatal(lit) {
			got[p.fset.Position(call.at).Line] = true
		}
	}
	want := map[int]bool{}
	for i, line := range strings.Split(source, "\n") {
		if strings.HasSuffix(line, "// bad") {
			want[i+1] = true
		}
	}
	require.Equal(t, want, got)
}

// testPackage is the code of one directory in which tests may fail.
type testPackage struct {
	fset  *token.FileSet
	files []*ast.File
	funcs map[string][]*ast.FuncDecl // by name; methods with a dot before it
	ends  map[string]bool            // whether they end their goroutine, as far as is known
}

// testPackages parses all directories.
func testPackages(t *testing.T) map[string]*testPackage {
	t.Helper()
	all := map[string]*testPackage{}
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && d.Name() != "..":
			return filepath.SkipDir
		case d.IsDir(), !strings.HasSuffix(path, ".go"), strings.HasSuffix(path, ".pb.go"):
			return nil
		}
		dir := filepath.Dir(path)
		if all[dir] == nil {
			all[dir] = &testPackage{fset: token.NewFileSet(), funcs: map[string][]*ast.FuncDecl{}, ends: map[string]bool{}}
		}
		f, err := parser.ParseFile(all[dir].fset, path, nil, parser.SkipObjectResolution)
		if err == nil {
			all[dir].add(f)
		}
		return err
	})
	require.NoError(t, err)
	return all
}

func (p *testPackage) add(f *ast.File) {
	p.files = append(p.files, f)
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			p.funcs[key(fn)] = append(p.funcs[key(fn)], fn)
		}
	}
}

// elsewhere finds what is run on other goroutines: function literals and, behind
// go, calls of functions.
func elsewhere(f *ast.File) (found []ast.Node) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			if lit, ok := n.Call.Fun.(*ast.FuncLit); ok {
				found = append(found, lit.Body)
			} else {
				found = append(found, n.Call)
			}
		case *ast.CallExpr:
			s, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || !runsElsewhere(s) {
				return true
			}
			for _, arg := range n.Args {
				if lit, ok := arg.(*ast.FuncLit); ok {
					found = append(found, lit.Body)
				}
			}
		}
		return true
	})
	return found
}

// runsElsewhere knows by their names the functions that run another one on a
// goroutine of its own: those of sync, errgroup, net/http, time and context, and
// testify's.
func runsElsewhere(s *ast.SelectorExpr) bool {
	switch s.Sel.Name {
	case "Go", "TryGo", "HandlerFunc", "HandleFunc", "AfterFunc":
		return true
	case "Eventually", "Eventuallyf", "Never", "Neverf":
		x, ok := s.X.(*ast.Ident)
		return ok && (x.Name == "require" || x.Name == "assert")
	}
	return false
}

type fatalCall struct {
	at   token.Pos
	name string
}

// fatal finds the calls in n that end the goroutine they run on.
func (p *testPackage) fatal(n ast.Node) (found []fatalCall) {
	ast.Inspect(n, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		switch fun := call.Fun.(type) {
		case *ast.SelectorExpr:
			x, ok := fun.X.(*ast.Ident)
			if fun.Sel.Name == "Run" {
				return false // a subtest has a goroutine of its own, which it may end
			}
			if ok && ends(x.Name, fun.Sel.Name) {
				found = append(found, fatalCall{call.Pos(), x.Name + "." + fun.Sel.Name})
			}
			if !(ok && x.Name == "t") && p.calls("."+fun.Sel.Name) {
				found = append(found, fatalCall{call.Pos(), fun.Sel.Name})
			}
		case *ast.Ident:
			if p.calls(fun.Name) {
				found = append(found, fatalCall{call.Pos(), fun.Name})
			}
		}
		return true
	})
	return found
}

// calls reports whether the functions of that name end their goroutine when
// something is wrong.
func (p *testPackage) calls(name string) bool {
	if len(p.funcs[name]) == 0 || name == ".Add" || name == ".Stop" { // many types of the library have these
		return false
	}
	if all, known := p.ends[name]; known {
		return all
	}
	p.ends[name] = false // while it is looked at: it may call itself
	p.ends[name] = !slices.ContainsFunc(p.funcs[name], func(fn *ast.FuncDecl) bool {
		return fn.Body == nil || len(p.fatal(fn.Body)) == 0
	})
	return p.ends[name]
}

// key is a function's name, with a dot before a method's.
func key(fn *ast.FuncDecl) string {
	if fn.Recv != nil {
		return "." + fn.Name.Name
	}
	return fn.Name.Name
}

// ends reports whether a call of x.name ends its goroutine when something is wrong.
func ends(x, name string) bool {
	switch name {
	case "Fatal", "Fatalf", "FailNow", "Skip", "Skipf", "SkipNow":
		return x == "t" || x == "b" || x == "tb" || x == "f"
	}
	return x == "require" && name != "EventuallyWithT" && name != "EventuallyWithTf"
}

func place(fset *token.FileSet, at token.Pos) string {
	p := fset.Position(at)
	return filepath.Base(p.Filename) + ":" + strings.TrimPrefix(p.String(), p.Filename+":")
}
