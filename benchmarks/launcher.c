/* Only the system calls of a warm run: launcher PYTHON DIRECTORY SCRIPT.

   It stats the script and twenty other files, takes a file lock, appends a line, and becomes PYTHON. It checks nothing:
   its purpose is to show how much of a warm run is the start of cetool's own interpreter. */

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int count, char **words)
{
    char path[4096], text[4096];
    struct stat info;
    int descriptor, number;

    if (count < 4 || stat(words[3], &info))
        return 125;
    for (number = 0; number < 20; number++) {
        snprintf(path, sizeof path, "%s/%d", words[2], number);
        stat(path, &info);
    }
    snprintf(path, sizeof path, "%s/lock", words[2]);
    descriptor = open(path, O_RDONLY | O_CREAT, 0600);
    if (descriptor < 0 || flock(descriptor, LOCK_SH | LOCK_NB) || fstat(descriptor, &info))
        return 125;
    descriptor = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (descriptor < 0 || read(descriptor, text, sizeof text) <= 0)
        return 125;
    close(descriptor);
    snprintf(path, sizeof path, "%s/spool", words[2]);
    descriptor = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (descriptor < 0 || write(descriptor, words[3], strlen(words[3])) < 0)
        return 125;
    execv(words[1], (char *[]){words[1], words[3], NULL});
    return 126;
}
