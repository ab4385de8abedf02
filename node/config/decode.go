package config

import (
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"sort"
	"strings"
)

// decode copies a tree into a struct, and reports every key that is unknown
// or has a value of the wrong kind. Fields that the tree lacks stay as they are.
func decode(r *report, path string, tree map[string]any, into reflect.Value) {
	known := fields(into.Type())
	for _, name := range sortedKeys(tree) {
		key := dotted(path, name)
		i, ok := known[name]
		if !ok {
			r.add(key, "unknown key%s", hint(name, known))
			continue
		}
		decodeValue(r, key, tree[name], into.Field(i))
	}
}

func hint(name string, known map[string]int) string {
	names := sortedKeys(known)
	if near := nearest(name, names); near != "" {
		return fmt.Sprintf("; did you mean %s?", near)
	}
	return "; known here: " + strings.Join(names, ", ")
}

func decodeValue(r *report, key string, value any, into reflect.Value) {
	if into.Kind() == reflect.Struct && !isText(into) {
		tree, ok := value.(map[string]any)
		if !ok {
			r.add(key, "must be a table, written [%s], not %s", key, kindOf(value))
			return
		}
		decode(r, key, tree, into)
		return
	}
	if into.Kind() == reflect.Slice {
		decodeList(r, key, value, into)
		return
	}
	if err := decodeScalar(value, into); err != nil {
		r.add(key, "%v", err)
	}
}

func decodeList(r *report, key string, value any, into reflect.Value) {
	list, ok := value.([]any)
	tables := into.Type().Elem().Kind() == reflect.Struct && !isText(reflect.New(into.Type().Elem()).Elem())
	switch {
	case !ok && tables:
		r.add(key, "must be a list of tables, each written [[%s]], not %s", key, kindOf(value))
		return
	case !ok:
		r.add(key, "must be a list such as [%s], not %s", example(into.Type().Elem()), kindOf(value))
		return
	}
	all := reflect.MakeSlice(into.Type(), 0, len(list))
	for i, one := range list {
		element := reflect.New(into.Type().Elem()).Elem()
		setDefaults(element)
		decodeValue(r, fmt.Sprintf("%s[%d]", key, i), one, element)
		all = reflect.Append(all, element)
	}
	into.Set(all)
}

// setDefaults fills the elements of lists of tables.
func setDefaults(v reflect.Value) {
	switch into := v.Addr().Interface().(type) {
	case *SMTP:
		*into = NewSMTP()
	case *Milter:
		*into = NewMilter()
	case *POP3:
		*into = NewPOP3()
	case *DNSBL:
		*into = NewDNSBL()
	}
}

func decodeScalar(value any, into reflect.Value) error {
	if isText(into) {
		return decodeText(value, into)
	}
	switch into.Kind() {
	case reflect.Pointer: // unset is a value of its own
		one := reflect.New(into.Type().Elem())
		if err := decodeScalar(value, one.Elem()); err != nil {
			return err
		}
		into.Set(one)
	case reflect.String:
		s, ok := value.(string)
		if !ok {
			return fmt.Errorf("must be a text in quotes, not %s", kindOf(value))
		}
		into.SetString(s)
	case reflect.Bool:
		b, ok := value.(bool)
		if !ok {
			return fmt.Errorf("must be true or false, not %s", kindOf(value))
		}
		into.SetBool(b)
	case reflect.Int:
		n, ok := value.(int64)
		if !ok {
			return fmt.Errorf("must be a whole number, not %s", kindOf(value))
		}
		if n < 0 || n > 1<<31-1 {
			return fmt.Errorf("%d is out of range", n)
		}
		into.SetInt(n)
	default:
		return fmt.Errorf("can not be set")
	}
	return nil
}

func decodeText(value any, into reflect.Value) error {
	s, ok := value.(string)
	size := into.Type() == reflect.TypeFor[Size]() || into.Type() == reflect.TypeFor[AutoSize]()
	if n, number := value.(int64); number && n >= 0 && size {
		s, ok = fmt.Sprint(n), true // a bare number of octets is plain enough
	}
	if !ok {
		return fmt.Errorf("must be %s, not %s", example(into.Type()), kindOf(value))
	}
	switch into := into.Addr().Interface().(type) {
	case *netip.Prefix:
		p, err := parsePrefix(s)
		if err != nil {
			return err
		}
		*into = p
		return nil
	case *netip.Addr:
		a, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("%q is not an IP address", s)
		}
		*into = a
		return nil
	case encoding.TextUnmarshaler:
		return into.UnmarshalText([]byte(s))
	}
	return fmt.Errorf("can not be set")
}

// parsePrefix takes a network, or one address for itself. An IPv4 network that is
// written as one of IPv6, as Postfix's mynetworks has it, is the IPv4 network: clients
// are known by their IPv4 addresses.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		text := fmt.Sprintf(`%q is not a network such as "10.0.0.0/8"`, s)
		if plain := strings.NewReplacer("[", "", "]", "").Replace(s); plain != s {
			if _, err := netip.ParsePrefix(plain); err == nil {
				text += fmt.Sprintf("; did you mean %s?", plain)
			}
		}
		return p, errors.New(text)
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("%q has bits set beyond its length; did you mean %s?", s, p.Masked())
	}
	return p, nil
}

func isText(v reflect.Value) bool {
	_, ok := v.Addr().Interface().(encoding.TextUnmarshaler)
	return ok
}

func example(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Size]():
		return `a size such as "50MB"`
	case reflect.TypeFor[AutoSize]():
		return `"auto" or a size such as "64MB"`
	case reflect.TypeFor[Duration]():
		return `a duration such as "5m"`
	case reflect.TypeFor[netip.Prefix]():
		return `"10.0.0.0/8"`
	case reflect.TypeFor[netip.Addr]():
		return `"192.0.2.1"`
	}
	return `"…"`
}

func kindOf(value any) string {
	switch value.(type) {
	case string:
		return "a text"
	case bool:
		return "true or false"
	case int64:
		return "a number"
	case float64:
		return "a fraction"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}

// fields maps the TOML names of a struct to its fields.
func fields(t reflect.Type) map[string]int {
	all := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		if tag := t.Field(i).Tag.Get("toml"); tag != "-" {
			all[tag] = i
		}
	}
	return all
}

func dotted(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func sortedKeys[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
