package node

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"relay/queue/replyclass"
)

// tableOf lists the names in the first column of a table of LOG.md.
func tableOf(t *testing.T, heading string) (names []string) {
	t.Helper()
	text, err := os.ReadFile("LOG.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	for row := range strings.SplitSeq(section, "\n") {
		cells := strings.Split(row, "|")
		if len(cells) < 3 || !strings.Contains(cells[1], "`") {
			continue
		}
		for name := range strings.SplitSeq(cells[1], ",") {
			names = append(names, strings.Trim(name, " `"))
		}
	}
	return names
}

// The files whose log lines LOG.md promises, and of the last the function.
func TestTheLogsTablesAreThoseOfTheCode(t *testing.T) {
	fields, words := map[string]bool{}, map[string]bool{}
	for path, only := range map[string]string{
		"statelog/lines.go": "", "maildrop/removed.go": "",
		"refusal_log.go": "", "inbound/filter.go": "discard", "inbound/repeat.go": "repeated",
		"operator/manage.go": "command", "operator/bounce.go": "bounce", "../queue/settle.go": "line",
		"outbound/ruled.go": "writeRuled",
	} {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		require.NoError(t, err)
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && (only == "" || fn.Name.Name == only) {
				collectLine(fn, fields, words)
			}
		}
	}
	fields["error"] = true                                                     // zap.Error
	words["delivered"], words["deferred"], words["expired"] = true, true, true // of package queue
	var keys []string
	for k := range fields {
		keys = append(keys, k)
	}
	require.ElementsMatch(t, tableOf(t, "Fields"), keys)
	for _, name := range tableOf(t, "Messages") {
		require.True(t, words[name], "no line %q in the code", name)
	}
}

// TestTheLogsReasonsAreThoseOfTheCode: LOG.md lists every reason of a refusal, and no other.
func TestTheLogsReasonsAreThoseOfTheCode(t *testing.T) {
	said := regexp.MustCompile(`(?i)reason\w*(?:\s*=|:)\s*"([a-z_]+)"`)
	reasons := map[string]bool{}
	for _, dir := range []string{"../smtp", "../pop3", "inbound", "milter", "."} {
		paths, err := filepath.Glob(dir + "/*.go")
		require.NoError(t, err)
		for _, path := range paths {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			for _, m := range said.FindAllStringSubmatch(string(text), -1) {
				reasons[m[1]] = reasons[m[1]] || !strings.HasSuffix(path, "_test.go")
			}
		}
	}
	maps.DeleteFunc(reasons, func(_ string, ours bool) bool { return !ours })
	require.ElementsMatch(t, tableOf(t, "Reasons"), slices.Collect(maps.Keys(reasons)))
}

// TestTheLogsClassesAreThoseOfTheCode: LOG.md lists every class of a failure, and no other.
func TestTheLogsClassesAreThoseOfTheCode(t *testing.T) {
	var names []string
	for c := range replyclass.Classes {
		if c := replyclass.Class(c); c != replyclass.None {
			names = append(names, c.String())
		}
	}
	require.ElementsMatch(t, tableOf(t, "Classes"), names)
}

// collectLine notes field names and all other texts of a function.
func collectLine(fn ast.Node, fields, words map[string]bool) {
	kinds := []string{"String", "Strings", "Stringer", "Int", "Uint32", "Uint64", "Time", "NamedError"}
	text := func(e ast.Expr) (string, bool) {
		l, ok := e.(*ast.BasicLit)
		if !ok || l.Kind != token.STRING {
			return "", false
		}
		return strings.Trim(l.Value, `"`), true
	}
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.CallExpr:
			name := ""
			switch f := n.Fun.(type) {
			case *ast.SelectorExpr:
				if f.Sel.Name == "IDField" {
					name = "zap"
				}
				if f.Sel.Name == "RecipientsField" {
					fields["recipients"] = true
				}
				if x, ok := f.X.(*ast.Ident); ok && x.Name == "zap" && slices.Contains(kinds, f.Sel.Name) {
					name = "zap"
				}
			case *ast.Ident:
				if f.Name == "IDField" {
					name = "zap"
				}
				if f.Name == "RecipientsField" {
					fields["recipients"] = true
				}
			}
			if key, ok := text(slices.Concat(n.Args, []ast.Expr{nil})[0]); name != "" && ok {
				fields[key] = true
				delete(words, key)
			}
		case *ast.CompositeLit: // {"session", value}
			if len(n.Elts) == 2 && n.Type == nil {
				if key, ok := text(n.Elts[0]); ok {
					fields[key] = true
				}
			}
		case *ast.BasicLit:
			if s, ok := text(n); ok {
				words[s] = true
			}
		}
		return true
	})
}
