// A daemon with the real MSAL Go and its extensions.
//
//	peer write FOLDER               signs in, an application and a user, into FOLDER/app.bin and FOLDER/user.bin
//	peer read FOLDER...             what it finds there
//	peer tokens CACHE SCOPE...      says "ready", waits for a line, then gets a token for each scope
//
// Prints JSON, a line for each answer; the first line of write and read tells the versions.  The provider, the
// application and its scopes are in PEER_*, the proxy and the trust root where Go looks for them.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"github.com/AzureAD/microsoft-authentication-extensions-for-go/cache"
	"github.com/AzureAD/microsoft-authentication-extensions-for-go/cache/accessor/file"
	"github.com/AzureAD/microsoft-authentication-library-for-go/apps/confidential"
)

type answer map[string]any

var ctx = context.Background()

func main() {
	mode, arguments := os.Args[1], os.Args[2:]
	switch mode {
	case "write":
		say(answer{"versions": versions()})
		say(write(arguments[0]))
	case "read":
		say(answer{"versions": versions()})
		for _, folder := range arguments {
			say(read(folder))
		}
	case "tokens":
		tokens(arguments[0], arguments[1:])
	}
}

func write(folder string) answer {
	app := client(filepath.Join(folder, "app.bin"))
	said := answer{
		"plain":  token(app.AcquireTokenByCredential(ctx, scope("PEER_SCOPE"))),
		"second": token(app.AcquireTokenByCredential(ctx, scope("PEER_SECOND_SCOPE"))),
	}
	app = client(filepath.Join(folder, "user.bin"))
	said["user"] = token(app.AcquireTokenByAuthCode(
		ctx, os.Getenv("PEER_CODE"), "https://localhost/redirect", scope("PEER_USER_SCOPE")))
	return said
}

func read(folder string) answer {
	app := client(filepath.Join(folder, "app.bin"))
	said := answer{
		"plain":  token(app.AcquireTokenByCredential(ctx, scope("PEER_SCOPE"))),
		"second": token(app.AcquireTokenByCredential(ctx, scope("PEER_SECOND_SCOPE"))),
	}
	app = client(filepath.Join(folder, "user.bin"))
	account, err := app.Account(ctx, os.Getenv("PEER_ACCOUNT"))
	if err != nil {
		said["account"] = answer{"error": err.Error()}
		return said
	}
	said["account"] = answer{"found": !account.IsZero()}
	if !account.IsZero() {
		said["user"] = token(app.AcquireTokenSilent(
			ctx, scope("PEER_USER_SCOPE"), confidential.WithSilentAccount(account)))
	}
	return said
}

func tokens(path string, scopes []string) {
	app := client(path)
	fmt.Println("ready")
	bufio.NewReader(os.Stdin).ReadString('\n')
	for _, scope := range scopes {
		said := token(app.AcquireTokenByCredential(ctx, []string{scope}))
		said["scope"] = scope
		say(said)
	}
}

func client(path string) confidential.Client {
	storage := must(file.New(path))
	persisted := must(cache.New(storage, path))
	credential := must(confidential.NewCredFromSecret(os.Getenv("PEER_CLIENT_SECRET")))
	return must(confidential.New(
		os.Getenv("PEER_AUTHORITY"), os.Getenv("PEER_CLIENT_ID"), credential, confidential.WithCache(persisted)))
}

func scope(variable string) []string { return []string{os.Getenv(variable)} }

func token(result confidential.AuthResult, err error) answer {
	if err != nil {
		return answer{"error": err.Error()}
	}
	return answer{"token": result.AccessToken}
}

func versions() []string {
	info, _ := debug.ReadBuildInfo()
	var found []string
	for _, dependency := range info.Deps {
		if strings.Contains(dependency.Path, "/AzureAD/") {
			name := strings.TrimSuffix(strings.TrimPrefix(dependency.Path, "github.com/AzureAD/"), "/cache")
			found = append(found, name+" "+strings.TrimPrefix(dependency.Version, "v"))
		}
	}
	return found
}

func say(what answer) { fmt.Println(string(must(json.Marshal(what)))) }

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
