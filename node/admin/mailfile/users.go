package mailfile

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// User is a line of userinfo.txt.
type User struct {
	Login    string
	Password string // in clear: it is hashed where it is stored
}

// Users reads the userinfo.txt of teaching servers: a user a line, login and
// password separated by spaces or tabs. Empty lines are skipped, and so is the
// mark that some editors put at the beginning. An error names the line, and
// never the password.
func Users(r io.Reader) ([]User, error) {
	var all []User
	seen := map[string]int{}
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimRight(lines.Text(), "\r")
		if n == 1 {
			text = strings.TrimPrefix(text, "\ufeff")
		}
		fields := strings.Fields(text)
		switch {
		case len(fields) == 0:
			continue
		case len(fields) != 2:
			return nil, fmt.Errorf("line %d: there are %d words, not a login and a password", n, len(fields))
		case !utf8.ValidString(text):
			return nil, fmt.Errorf("line %d is not in UTF-8", n)
		}
		login := strings.ToLower(fields[0])
		if first, ok := seen[login]; ok {
			return nil, fmt.Errorf("line %d: %s is in line %d already", n, fields[0], first)
		}
		seen[login] = n
		all = append(all, User{fields[0], fields[1]})
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("the file can not be read: %w", err)
	}
	return all, nil
}

// MailboxOf finds a user's my_mailbox.txt below a folder, in the folder of the
// login's name; empty where there is none. A login that is no plain name has
// none: a name in a file never leads out of the folder.
func MailboxOf(dir, login string) (string, error) {
	if login == "." || !filepath.IsLocal(login) || strings.ContainsAny(login, `/\`) || strings.HasPrefix(login, ".") {
		return "", nil
	}
	path := filepath.Join(dir, login, mailboxName)
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case !st.Mode().IsRegular():
		return "", nil
	}
	return path, nil
}
