package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// eachFile parses every Go file that people write, tests apart.
func eachFile(t *testing.T, visit func(fset *token.FileSet, path string, f *ast.File)) {
	t.Helper()
	const root = "../.."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root && d.Name() != "..":
			return filepath.SkipDir
		case d.IsDir(), !strings.HasSuffix(path, ".go"), strings.HasSuffix(path, "_test.go"),
			strings.HasSuffix(path, ".pb.go"):
			return nil
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		visit(fset, filepath.ToSlash(rel), f)
		return err
	})
	require.NoError(t, err)
}

// Three nodes run in one test process: nothing may happen at import, and
// nothing may be shared between them.
func TestNoInitAndNoMutablePackageState(t *testing.T) {
	eachFile(t, func(fset *token.FileSet, path string, f *ast.File) {
		vars := map[any]bool{} // what names stand for
		for _, decl := range f.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if decl.Name.Name == "init" && decl.Recv == nil {
					t.Errorf("%s: no init functions; construct things where they are used", at(fset, path, decl))
				}
			case *ast.GenDecl:
				for _, name := range packageVars(decl) {
					vars[name.Obj] = true
					if emptyVar(decl, name) {
						t.Errorf("%s: package variable %s begins empty, so something changes it", at(fset, path, name), name.Name)
					}
				}
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			for _, name := range assigned(n) {
				if vars[name.Obj] {
					t.Errorf("%s: package variable %s is changed; keep state in a value", at(fset, path, name), name.Name)
				}
			}
			return true
		})
	})
}

func at(fset *token.FileSet, path string, n ast.Node) string {
	return path + ":" + strings.TrimPrefix(fset.Position(n.Pos()).String(), fset.Position(n.Pos()).Filename+":")
}

func packageVars(decl *ast.GenDecl) []*ast.Ident {
	var all []*ast.Ident
	for _, s := range decl.Specs {
		if v, ok := s.(*ast.ValueSpec); ok && decl.Tok == token.VAR {
			for _, name := range v.Names {
				if name.Name != "_" {
					all = append(all, name)
				}
			}
		}
	}
	return all
}

// emptyVar reports a variable without a value that is not filled by go:embed.
func emptyVar(decl *ast.GenDecl, name *ast.Ident) bool {
	v, ok := name.Obj.Decl.(*ast.ValueSpec)
	if !ok || len(v.Values) > 0 {
		return false
	}
	for _, doc := range []*ast.CommentGroup{decl.Doc, v.Doc} {
		if doc == nil {
			continue
		}
		for _, c := range doc.List {
			if strings.HasPrefix(c.Text, "//go:embed ") {
				return false
			}
		}
	}
	return true
}

// assigned returns the variables that a statement changes, whole or in part.
func assigned(n ast.Node) []*ast.Ident {
	var targets []ast.Expr
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			targets = n.Lhs
		}
	case *ast.IncDecStmt:
		targets = []ast.Expr{n.X}
	}
	var all []*ast.Ident
	for _, e := range targets {
		if name := base(e); name != nil && name.Obj != nil {
			all = append(all, name)
		}
	}
	return all
}

func base(e ast.Expr) *ast.Ident {
	switch e := e.(type) {
	case *ast.Ident:
		return e
	case *ast.IndexExpr:
		return base(e.X)
	case *ast.SelectorExpr:
		return base(e.X)
	case *ast.StarExpr:
		return base(e.X)
	}
	return nil
}

// Only a main may end the process.
func TestNothingOutsideMainExits(t *testing.T) {
	fatal := map[string]bool{
		"os.Exit": true, "log.Fatal": true, "log.Fatalf": true, "log.Fatalln": true,
		"log.Panic": true, "log.Panicf": true, "log.Panicln": true,
	}
	eachFile(t, func(fset *token.FileSet, path string, f *ast.File) {
		if f.Name.Name == "main" {
			return
		}
		ast.Inspect(f, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := s.X.(*ast.Ident)
			if ok && fatal[x.Name+"."+s.Sel.Name] && imports(f, x.Name) {
				t.Errorf("%s: %s.%s outside main; return an error", at(fset, path, s), x.Name, s.Sel.Name)
			}
			return true
		})
	})
}

// imports reports whether a file imports a standard package by its own name;
// else the name is a variable, a logger say.
func imports(f *ast.File, name string) bool {
	for _, i := range f.Imports {
		if i.Name == nil && i.Path.Value == `"`+name+`"` {
			return true
		}
	}
	return false
}
