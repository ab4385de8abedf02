package arch

import (
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

const columns = 120 // a tab is one

// written lists the files of the tree that people write, by the ends of their
// names.
func written(t *testing.T, patterns ...string) (all []string) {
	t.Helper()
	cmd := exec.Command("git", append([]string{"ls-files", "--cached", "--others", "--exclude-standard"}, patterns...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("the tree is no git checkout: %v", err)
	}
	for path := range strings.Lines(string(out)) {
		path = strings.TrimSpace(path)
		if !strings.HasSuffix(path, ".pb.go") && !strings.Contains(path, "/testdata/") {
			all = append(all, path)
		}
	}
	return all
}

// TestColumns: lines that can't be broken are let through: tables of Markdown and its
// transcripts, links, raw strings (struct tags among them) and go's directives.
func TestColumns(t *testing.T) {
	for _, path := range written(t, "*.go", "*.md", "*.sh", ".ci/run") {
		src, err := os.ReadFile(filepath.Join("../..", path))
		if os.IsNotExist(err) {
			continue // removed, and not yet committed
		}
		require.NoError(t, err)
		if slices.ContainsFunc(stillWide(), func(p string) bool { ok, _ := filepath.Match(p, path); return ok }) {
			continue
		}
		for n := range wide(path, string(src)) {
			t.Errorf("%s:%d is wider than %d columns", path, n, columns)
		}
	}
}

// stillWide are the files whose lines have yet to be wrapped: tables of cases.
func stillWide() []string {
	return []string{"cmd/relayctl/relayctl_test.go"}
}

// wide finds the lines of a file that are too wide.
func wide(path, src string) map[int]bool {
	found, fenced, n := map[int]bool{}, false, 0
	for line := range strings.Lines(src) {
		n++
		line = strings.TrimSuffix(line, "\n")
		if strings.HasSuffix(path, ".md") {
			if strings.HasPrefix(strings.TrimSpace(line), "```") {
				fenced = !fenced
			}
			if fenced || strings.HasPrefix(line, "|") || strings.HasPrefix(line, "    ") {
				continue
			}
		}
		if utf8.RuneCountInString(line) > columns && !strings.HasPrefix(line, "//go:") && !endsInLink(line) {
			found[n] = true
		}
	}
	if len(found) > 0 && strings.HasSuffix(path, ".go") {
		for _, n := range rawLines(src) {
			delete(found, n)
		}
	}
	return found
}

// endsInLink reports whether a line is too wide only by a link that began before
// the limit.
func endsInLink(line string) bool {
	at := strings.LastIndex(line, "://")
	return at >= 0 && !strings.Contains(strings.TrimSpace(line[at:]), " ")
}

// rawLines are the lines on which raw strings stand.
func rawLines(src string) (all []int) {
	fset := token.NewFileSet()
	f := fset.AddFile("", fset.Base(), len(src))
	var s scanner.Scanner
	s.Init(f, []byte(src), func(token.Position, string) {}, 0)
	for {
		pos, tok, text := s.Scan()
		if tok == token.EOF {
			return all
		}
		if tok == token.STRING && text[0] == '`' {
			for n := range strings.Count(text, "\n") + 1 {
				all = append(all, f.Line(pos)+n)
			}
		}
	}
}

func TestColumnsCatch(t *testing.T) {
	long := strings.Repeat("x ", columns/2)
	require.Equal(t, map[int]bool{2: true}, wide("a.go", "package a\n// "+long+"\n// see "+long+"https://x.example\n"))
	require.Equal(t, map[int]bool{4: true}, wide("a.go", "package a\nvar a = `\n"+long+"x`\nvar b = \""+long+"\"\n"))
	require.Equal(t, map[int]bool{5: true}, wide("a.md", "|"+long+"|\n```\n"+long+"$\n```\n"+long+"$\n"))
	require.Empty(t, wide("a.md", strings.Repeat("ä", columns)))
}

// clause is the beginning of a sentence whose subject is a clause without a name
// of its own, which has to be read twice.
var clause = regexp.MustCompile(`(?:^|[.;:/] )(?:Who|What|Where|How|Whoever|Whatever|Whichever) [a-z][^?]*$`)

// TestCommentsNameTheirActor: no sentence of a comment begins with a bare who,
// what, where or how clause.
func TestCommentsNameTheirActor(t *testing.T) {
	for _, path := range written(t, "*.go") {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.Join("../..", path), nil, parser.ParseComments|parser.SkipObjectResolution)
		if os.IsNotExist(err) {
			continue
		}
		require.NoError(t, err)
		for _, g := range f.Comments {
			for _, s := range clauses(g) {
				t.Errorf("%s: name the actor: %s", at(fset, path, g), s)
			}
		}
	}
}

// clauses finds the sentences of a comment that begin with one.
func clauses(g *ast.CommentGroup) (all []string) {
	for _, s := range regexp.MustCompile(`[^.?!]+[.?!]?`).FindAllString(strings.Join(strings.Fields(g.Text()), " "), -1) {
		if s = strings.TrimSpace(s); clause.MatchString(s) {
			all = append(all, s)
		}
	}
	return all
}

func TestCommentCheckCatches(t *testing.T) {
	for text, bad := range map[string]bool{
		"Who waits first reads for the others.":  true,
		"It is so. Where it is gone, no.":        true,
		"It is so; Whatever comes is taken.":     true,
		"Where mail goes is another's business.": true,
		"How mail goes is another's business.":   true,
		"Whichever comes is taken.":              true,
		"What is it for? Nothing.":               false,
		"The first waiter reads, and who asks.":  false,
		"Whose it is does not matter.":           false,
		"WhatIsIt returns nothing.":              false,
	} {
		require.Equal(t, bad, len(clauses(&ast.CommentGroup{List: []*ast.Comment{{Text: "// " + text}}})) > 0, text)
	}
}
