import com.microsoft.aad.msal4j.AuthorizationCodeParameters;
import com.microsoft.aad.msal4j.ClientCredentialFactory;
import com.microsoft.aad.msal4j.ClientCredentialParameters;
import com.microsoft.aad.msal4j.ConfidentialClientApplication;
import com.microsoft.aad.msal4j.IAccount;
import com.microsoft.aad.msal4j.IAuthenticationResult;
import com.microsoft.aad.msal4j.SilentParameters;
import com.microsoft.aad.msal4jextensions.PersistenceSettings;
import com.microsoft.aad.msal4jextensions.PersistenceTokenCacheAccessAspect;
import java.net.URI;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.Arrays;
import java.util.Collections;
import java.util.Set;
import java.util.concurrent.CompletableFuture;

/**
 * A daemon with the real MSAL4J and its persistence extension.
 *
 * <pre>
 * write FOLDER           signs in, an application and a user, into FOLDER/app.bin and FOLDER/user.bin
 * read FOLDER...         what it finds there
 * tokens CACHE SCOPE...  says "ready", waits for a line, then gets a token for each scope
 * </pre>
 *
 * Prints JSON, a line for each answer; the first line of write and read tells the versions. The provider, the
 * application and its scopes are in PEER_*, the proxy and the trust root in Java's own properties.
 */
class Peer {
    public static void main(String[] arguments) throws Exception {
        String[] rest = Arrays.copyOfRange(arguments, 1, arguments.length);
        switch (arguments[0]) {
            case "write":
                System.out.println(versions());
                System.out.println(write(rest[0]));
                break;
            case "read":
                System.out.println(versions());
                for (String folder : rest) {
                    System.out.println(read(folder));
                }
                break;
            default:
                tokens(rest[0], Arrays.copyOfRange(rest, 1, rest.length));
        }
        System.exit(0); // the threads that MSAL4J starts would keep it for a while
    }

    private static String write(String folder) throws Exception {
        ConfidentialClientApplication app = client(Paths.get(folder, "app.bin"));
        String plain = token(() -> app.acquireToken(forApp(environment("SCOPE"))));
        String second = token(() -> app.acquireToken(forApp(environment("SECOND_SCOPE"))));
        ConfidentialClientApplication users = client(Paths.get(folder, "user.bin"));
        AuthorizationCodeParameters code =
                AuthorizationCodeParameters.builder(environment("CODE"), new URI("https://localhost/redirect"))
                        .scopes(Collections.singleton(environment("USER_SCOPE")))
                        .build();
        String user = token(() -> users.acquireToken(code));
        return "{\"plain\":" + plain + ",\"second\":" + second + ",\"user\":" + user + "}";
    }

    private static String read(String folder) throws Exception {
        ConfidentialClientApplication app = client(Paths.get(folder, "app.bin"));
        String plain = token(() -> app.acquireToken(forApp(environment("SCOPE"))));
        String second = token(() -> app.acquireToken(forApp(environment("SECOND_SCOPE"))));
        String said = "{\"plain\":" + plain + ",\"second\":" + second + ",\"account\":";
        ConfidentialClientApplication users = client(Paths.get(folder, "user.bin"));
        IAccount account = null;
        try {
            for (IAccount one : users.getAccounts().get()) {
                account = environment("ACCOUNT").equals(one.homeAccountId()) ? one : account;
            }
        } catch (Exception e) {
            return said + error(e) + "}";
        }
        if (account == null) {
            return said + "{\"found\":false}}";
        }
        Set<String> scopes = Collections.singleton(environment("USER_SCOPE"));
        SilentParameters silent = SilentParameters.builder(scopes, account).build();
        return said + "{\"found\":true},\"user\":" + token(() -> users.acquireTokenSilently(silent)) + "}";
    }

    private static void tokens(String cache, String[] scopes) throws Exception {
        ConfidentialClientApplication app = client(Paths.get(cache));
        System.out.println("ready");
        System.in.read();
        for (String scope : scopes) {
            String said = token(() -> app.acquireToken(forApp(scope)));
            System.out.println("{\"scope\":" + quoted(scope) + "," + said.substring(1));
        }
    }

    private static ConfidentialClientApplication client(Path cache) throws Exception {
        PersistenceSettings settings =
                PersistenceSettings.builder(cache.getFileName().toString(), cache.getParent())
                        .setLinuxUseUnprotectedFileAsCacheStorage(true)
                        .build();
        return ConfidentialClientApplication.builder(
                        environment("CLIENT_ID"),
                        ClientCredentialFactory.createFromSecret(environment("CLIENT_SECRET")))
                .authority(environment("AUTHORITY"))
                .setTokenCacheAccessAspect(new PersistenceTokenCacheAccessAspect(settings))
                .build();
    }

    private static ClientCredentialParameters forApp(String scope) {
        return ClientCredentialParameters.builder(Collections.singleton(scope)).build();
    }

    private static String environment(String name) {
        return System.getenv("PEER_" + name);
    }

    private interface Acquire {
        CompletableFuture<IAuthenticationResult> start() throws Exception;
    }

    private static String token(Acquire acquire) {
        try {
            return "{\"token\":" + quoted(acquire.start().get().accessToken()) + "}";
        } catch (Throwable e) {
            return error(e);
        }
    }

    private static String error(Throwable e) {
        return "{\"error\":" + quoted(String.valueOf(e)) + "}";
    }

    /** The name and the version of each library stand in the name of its file. */
    private static String versions() {
        StringBuilder names = new StringBuilder();
        for (Class<?> type : Arrays.asList(ConfidentialClientApplication.class, PersistenceSettings.class)) {
            String file = type.getProtectionDomain().getCodeSource().getLocation().getPath();
            String name = Paths.get(file).getFileName().toString().replaceFirst("-([0-9.]+)\\.jar$", " $1");
            names.append(names.length() == 0 ? "" : ",").append(quoted(name));
        }
        return "{\"versions\":[" + names + "]}";
    }

    private static String quoted(String text) {
        return "\"" + text.replaceAll("[\\p{Cntrl}\"\\\\]", " ") + "\"";
    }
}
