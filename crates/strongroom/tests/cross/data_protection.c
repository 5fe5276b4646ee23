/* Another program that keeps a cache as msal_extensions does (msal_extensions/windows.py), written against the
 * system's documentation alone.
 *
 *     data_protection protect FILE [ENTROPY]      encrypts standard input into FILE
 *     data_protection unprotect FILE [ENTROPY]    prints the description, a line break and the content of FILE
 *
 * It ends with status 0, with 3 if Windows refuses, or with 2 if anything else goes wrong. */

#include <windows.h>
#include <wincrypt.h>
#include <fcntl.h>
#include <io.h>
#include <stdio.h>
#include <string.h>

static BYTE buffer[1 << 20];

static DWORD read_all(FILE *file)
{
    size_t length = fread(buffer, 1, sizeof buffer, file);
    if (ferror(file) || length == sizeof buffer)
        ExitProcess(2);
    return (DWORD)length;
}

static int refused(const char *what)
{
    fprintf(stderr, "%s: error %lu\n", what, GetLastError());
    return 3;
}

int main(int count, char **arguments)
{
    if (count < 3)
        return 2;
    const char *path = arguments[2];
    DATA_BLOB in = {0, buffer}, out = {0, NULL}, entropy = {0, NULL};
    DATA_BLOB *with = NULL;
    if (count > 3) {
        entropy.pbData = (BYTE *)arguments[3];
        entropy.cbData = (DWORD)strlen(arguments[3]);
        with = &entropy;
    }
    _setmode(_fileno(stdin), _O_BINARY);
    _setmode(_fileno(stdout), _O_BINARY);

    if (strcmp(arguments[1], "protect") == 0) {
        in.cbData = read_all(stdin);
        if (!CryptProtectData(&in, L"python_data", with, NULL, NULL, CRYPTPROTECT_UI_FORBIDDEN, &out))
            return refused("CryptProtectData");
        FILE *file = fopen(path, "wb");
        if (!file || fwrite(out.pbData, 1, out.cbData, file) != out.cbData || fclose(file) != 0)
            return 2;
        return 0;
    }

    LPWSTR description = NULL;
    FILE *file = fopen(path, "rb");
    if (!file)
        return 2;
    in.cbData = read_all(file);
    if (!CryptUnprotectData(&in, &description, with, NULL, NULL, CRYPTPROTECT_UI_FORBIDDEN, &out))
        return refused("CryptUnprotectData");
    printf("%ls\n", description ? description : L"");
    fwrite(out.pbData, 1, out.cbData, stdout);
    return fflush(stdout) == 0 ? 0 : 2;
}
